"""The bundles that are measured; seconds as JSON on standard output.

    python -m benchmarks.gpu.exports SOURCE HEAD OUT --front 15

`OUT/int8` has the target in INT8 and its drafter in 4 bits. `OUT/fp16` has the drafter in fp16, for CUDA. `OUT/cut` has
the first blocks in fp16 as well. The exports run at the same time and share the cores; then the drafters are attached.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.machine.processor import usable_cores


def main() -> int:
    """Make the bundles; return the exit status of a command that failed, or 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("head")
    parser.add_argument("out", type=Path)
    parser.add_argument("--front", required=True, help="blocks on the GPU")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    whole = given.out / "int8"
    half = given.out / "fp16"
    cut = given.out / "cut"
    started = time.perf_counter()
    exports = [_export(given.source, whole), _export(given.source, cut, "--gpu-layers", given.front)]
    status = _wait(exports)
    if status:
        return status
    exported = time.perf_counter()
    shutil.copytree(whole, half)
    attached = [
        _attach(whole, given.head),
        _attach(half, given.head, "--precision", "fp16"),
        _attach(cut, given.head, "--precision", "fp16"),
    ]
    status = _wait(attached)
    if status:
        return status
    seconds = {"export_s": round(exported - started, 1), "attach_s": round(time.perf_counter() - exported, 1)}
    print(json.dumps({**seconds, "format": Bundle(whole).manifest.target.format}))
    return 0


def _export(source: str, bundle: Path, *options: str) -> subprocess.Popen[bytes]:
    return _dovetail("export", source, str(bundle), *options)


def _attach(bundle: Path, head: str, *options: str) -> subprocess.Popen[bytes]:
    return _dovetail("attach", str(bundle), head, *options)


def _wait(commands: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all commands; return the largest exit status."""
    return max(command.wait() for command in commands)


def _dovetail(*arguments: str) -> subprocess.Popen[bytes]:
    threads = str(max(1, usable_cores() // 2))
    command = [sys.executable, "-m", "dovetail_ort", *arguments]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": threads}, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
