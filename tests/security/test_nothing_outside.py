"""What a process that generates leaves behind: times in its own cache, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GENERATE = """
import sys
import dovetail_ort
model = dovetail_ort.load(sys.argv[1], threads=1)
model.generate("A dovetail joint", dovetail_ort.GenerationOptions(max_new_tokens=2))
"""


@pytest.fixture(params=["a directory", "a name"])
def bundle(request, tiny_bundle, in_hub_cache, tmp_path_factory, monkeypatch):
    """What is loaded, and all that must stay as it is: a bundle's directory, or the hub's cache that has it."""
    if request.param == "a directory":
        return str(tiny_bundle), tiny_bundle
    cache = tmp_path_factory.mktemp("hub")
    in_hub_cache(tiny_bundle, cache)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return "me/tiny", cache


def test_generating_writes_nothing_but_its_own_times(bundle, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    path, kept = bundle
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    subprocess.run([sys.executable, "-c", GENERATE, path], env=environment, check=True, timeout=60)
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*")} == before
    (written,) = (path for path in Path(tmp_path).rglob("*") if path.is_file())
    assert written.parent == tmp_path / "dovetail-ort" / "curves"
