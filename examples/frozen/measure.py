"""Size and start time of the frozen example, run where no Python is to be found.

    python measure.py APPLICATION BUNDLE > result.json

APPLICATION is the directory that PyInstaller wrote. It is copied, the bundle is put beside the program, and every start
has an environment of one variable, a home directory that was empty before the first one, and stands elsewhere. The
first start times target and drafter and stores what it finds, so it is told apart from the later ones.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.machine.processor import processor_name

PROMPT: Final = "Name three colours."
NUM_STARTS: Final = 9
PACKAGES: Final = ("pyinstaller", "onnxruntime", "numpy", "tokenizers", "jinja2")


def main(application: str, bundle: str) -> None:
    """Measure and print JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        program = shutil.copytree(application, Path(scratch) / "application", symlinks=True) / "ask"
        home = Path(scratch) / "home"
        home.mkdir()
        num_files, num_bytes = size(program.parent)
        shutil.copytree(bundle, program.parent / "bundle")
        first_ms = milliseconds_to_output([program, PROMPT], home)
        answer_ms = [milliseconds_to_output([program, PROMPT], home) for _ in range(NUM_STARTS)]
        help_ms = [milliseconds_to_output([program, "--help"], home) for _ in range(NUM_STARTS)]
        result = {
            "machine": processor_name(),
            "platform": platform.platform(),
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "application_bytes": num_bytes,
            "application_files": num_files,
            "bundle_bytes": size(program.parent / "bundle")[1],
            "num_starts": NUM_STARTS,
            "start_to_help_ms": rounded_quartiles(help_ms),
            "start_to_first_text_ms": rounded_quartiles(answer_ms),
            "first_start_to_first_text_ms": round(first_ms),
        }
    print(json.dumps(result, indent=2))


def size(directory: Path) -> tuple[int, int]:
    """Number and bytes of the files in a directory; a link counts as what the file system keeps of it."""
    sizes = [path.lstat().st_size for path in directory.rglob("*") if path.is_symlink() or path.is_file()]
    return len(sizes), sum(sizes)


def milliseconds_to_output(command: list[str | Path], home: Path) -> float:
    """From the start of a program to the first byte that it prints.

    Raises:
        CalledProcessError: it failed, or printed nothing.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = time.perf_counter()
    with subprocess.Popen(command, env={"HOME": str(home)}, cwd=home, **pipes) as process:
        first = process.stdout.read(1)
        elapsed = time.perf_counter() - started
        _, errors = process.communicate()
    if process.returncode or not first:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
    return 1000 * elapsed


def rounded_quartiles(times_ms: list[float]) -> list[int]:
    """First quartile, median, third quartile."""
    return [round(value) for value in statistics.quantiles(times_ms, n=4)]


if __name__ == "__main__":
    main(*sys.argv[1:])
