"""Every file of a bundle, cut off at 50 places: an error in one line, no crash, no hang, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle, sha256
from dovetail_ort_runtime.errors import BundleError

NUM_PLACES = 50
FILES = (
    *("manifest.json", "chat_template.jinja", "tokenizer.json", "model_native.onnx", "model_native.onnx_data"),
    *("drafter_native.onnx", "drafter_native.onnx_data"),
)


def places(num_bytes):
    """Sizes from nothing to one byte short; after a manifest's last brace there is only a line break."""
    return sorted({num_bytes * step // NUM_PLACES for step in range(NUM_PLACES - 1)} | {num_bytes - 2})


def contents(directory):
    return {path.name: sha256(path) for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def directory(tiny_drafting_bundle, tmp_path):
    return copytree(tiny_drafting_bundle, tmp_path / "bundle")


def test_these_are_all_files_of_a_bundle(directory):
    assert {path.name for path in directory.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_in_one_line_wherever_it_ends(directory, name):
    whole = (directory / name).read_bytes()
    for size in places(len(whole)):
        (directory / name).write_bytes(whole[:size])
        before = contents(directory)
        with pytest.raises(BundleError, match=name.replace(".", r"\.")) as caught:
            Bundle(directory, verify="none")
        assert "\n" not in str(caught.value)
        assert contents(directory) == before


# The manifest made to fit: what is left to the readers, up to ONNX Runtime, in a process that may crash.
LOAD_ALL = """
import json, sys, warnings
from pathlib import Path
import dovetail_ort
from dovetail_ort_runtime.bundle.bundle import sha256
from dovetail_ort_runtime.errors import BundleError

warnings.simplefilter("ignore")
directory, name = Path(sys.argv[1]), sys.argv[2]
path, manifest = directory / name, directory / "manifest.json"
whole, stated = path.read_bytes(), json.loads(manifest.read_text())
entry = next(entry for entry in stated["files"] if entry["path"] == name)
for size in json.loads(sys.argv[3]):
    path.write_bytes(whole[:size])
    entry.update(num_bytes=size, sha256=sha256(path))
    manifest.write_text(json.dumps(stated))
    try:
        model = dovetail_ort.load(directory, threads=1, drafter="dgf", draft_shape=dovetail_ort.ChainShape.fixed(2))
        model.generate([{"role": "user", "content": "Hi"}], dovetail_ort.GenerationOptions(max_new_tokens=2))
        print("answered")
    except BundleError as error:
        assert "\\n" not in str(error), error
        print("refused")
    except dovetail_ort.DovetailError as error:  # half a template may write nothing
        print("no prompt")
"""


@pytest.mark.parametrize("name", FILES[1:])
def test_a_truncated_file_with_a_checksum_that_fits_is_refused_or_read(directory, name, tmp_path):
    sizes = places((directory / name).stat().st_size)
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", LOAD_ALL, str(directory), name, json.dumps(sizes)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = done.stdout.split("\n")[:-1]
    assert len(outcomes) == len(sizes)
    if name != "chat_template.jinja":  # a template may well end sooner
        assert set(outcomes) == {"refused"}
    assert {path.name for path in directory.iterdir()} == set(FILES)
    assert not list(Path(home).rglob("*"))
