"""Size and start time of the frozen example, run where no Python is to be found.

    python -m benchmarks.frozen APPLICATION BUNDLE

APPLICATION is the directory that PyInstaller wrote from `examples/frozen`. It is copied, and the bundle is put beside
the program. Every start has one environment variable: a home directory, which is empty before the first start. The
first start is reported by itself, because it times target and drafter and stores these times.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.machine import write_result
from benchmarks.timing import quartiles

PROMPT: Final = "Name three colours."
NUM_STARTS: Final = 9
PACKAGES: Final = ("pyinstaller", "onnxruntime", "numpy", "tokenizers", "jinja2")


def main(application: str, bundle: str) -> None:
    """Measure, and write `frozen.json`."""
    with tempfile.TemporaryDirectory() as scratch:
        program = shutil.copytree(application, Path(scratch) / "application", symlinks=True) / "ask"
        home = Path(scratch) / "home"
        home.mkdir()
        num_files, num_bytes = _size(program.parent)
        shutil.copytree(bundle, program.parent / "bundle")
        first_ms = _milliseconds_to_output([program, PROMPT], home)
        answer_ms = [_milliseconds_to_output([program, PROMPT], home) for _ in range(NUM_STARTS)]
        help_ms = [_milliseconds_to_output([program, "--help"], home) for _ in range(NUM_STARTS)]
        result = {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "application_bytes": num_bytes,
            "application_files": num_files,
            "bundle_bytes": _size(program.parent / "bundle")[1],
            "num_starts": NUM_STARTS,
            "start_to_help_ms": quartiles(help_ms, digits=1),
            "start_to_first_text_ms": quartiles(answer_ms, digits=1),
            "first_start_to_first_text_ms": round(first_ms),
        }
    write_result("frozen", result)


def _size(directory: Path) -> tuple[int, int]:
    """Number and bytes of the files in a directory; of a link, only its own bytes count."""
    sizes = [path.lstat().st_size for path in directory.rglob("*") if path.is_symlink() or path.is_file()]
    return len(sizes), sum(sizes)


def _milliseconds_to_output(command: list[str | Path], home: Path) -> float:
    """Milliseconds from the start of a program to the first byte that it prints.

    Raises:
        CalledProcessError: the program failed, or printed nothing.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        env={"HOME": str(home)},
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed = time.perf_counter() - started
        _, errors = process.communicate()
    if process.returncode or not first:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
    return 1000 * elapsed


if __name__ == "__main__":
    main(*sys.argv[1:])
