"""An export onto a full disk: a limit on the size of files stands for it, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Torch is imported once; each child exports under a limit of its own, which ends with it.
EXPORT = """
import json, os, resource, sys
import dovetail_ort_export.exporter
from dovetail_ort.cli.main import main

for num_bytes in json.loads(sys.argv[3]):
    print(f"limit {num_bytes}", file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
        os._exit(main(["export", sys.argv[1], sys.argv[2], "--format", "native"]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
LIMITS = (1000, 12_000, 40_000)


def test_an_export_that_finds_the_disk_full_ends_in_one_line_and_leaves_nothing(tiny_llama, tmp_path):
    command = [sys.executable, "-c", EXPORT, str(tiny_llama), str(tmp_path / "bundle"), json.dumps(LIMITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)  # pipes, which no limit holds for
    assert done.stdout.split() == ["2"] * len(LIMITS), done.stderr[-2000:]
    for output in done.stderr.split("limit ")[1:]:
        last = output.splitlines()[-1]
        assert last.startswith("dovetail-ort: ")
        assert "File too large" in last or "is the disk full?" in last
        assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_does_not_fit_is_an_error_of_the_system(tiny_llama, tmp_path, full_disk):
    from dovetail_ort_export.source import load_source
    from dovetail_ort_export.writing.tokenizer_entry import write_text_files

    source = load_source(str(tiny_llama))
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_text_files(source.text, tmp_path)
