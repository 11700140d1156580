"""What a process that generates leaves behind: times in its own cache, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

GENERATE = """
import sys
import dovetail_ort
model = dovetail_ort.load(sys.argv[1], threads=1)
model.generate("A dovetail joint", dovetail_ort.GenerationOptions(max_new_tokens=2))
"""


def test_generating_writes_nothing_but_its_own_times(tiny_bundle, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    before = {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")}
    subprocess.run([sys.executable, "-c", GENERATE, str(tiny_bundle)], env=environment, check=True, timeout=60)
    assert {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")} == before
    (written,) = (path for path in Path(tmp_path).rglob("*") if path.is_file())
    assert written.parent == tmp_path / "dovetail-ort" / "curves"
