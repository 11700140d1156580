"""A Python environment on the machine with the GPU, made of links; standard library only.

It holds the packages that were carried, those of the machine's own Python, and the checkout. A carried package takes
the place of the machine's package of the same name. The machine's ONNX Runtime is left out as a whole: the carried one
is for CUDA, and a second one in the same environment is refused.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_REPLACED: Final = ("onnxruntime", "onnxruntime-gpu", "dovetail-ort")
_REPLACED_FOLDERS: Final = ("onnxruntime", "dovetail_ort", "dovetail_ort_export", "dovetail_ort_runtime")
CODE: Final = ("", "export")
# Folder of the carried library of native operators, which no checkout has.
KERNELS: Final = "dovetail_kernels"
_RUNTIME: Final = "dovetail_ort_runtime"


def make_environment(folder: Path, carried: Path, checkout: Path) -> Path:
    """Make the environment anew, in about a second.

    Args:
        folder: folder of the environment.
        carried: folder of the unpacked wheels.
        checkout: root of the checkout, whose code is not copied.

    Returns:
        The path of its Python.
    """
    shutil.rmtree(folder, ignore_errors=True)
    python = _make_python(folder)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    replaced = set(_REPLACED)
    for entry in carried.iterdir():
        (site / entry.name).symlink_to(entry.resolve())
        replaced.update(_distribution(entry))
    for entry in _installed():
        link = site / entry.name
        if not link.is_symlink() and not _distribution(entry) & replaced:
            link.symlink_to(entry)
            replaced.update(_distribution(entry))  # another version in a later folder is hidden
    _write_metadata(site, checkout)
    _link_runtime(site / _RUNTIME, checkout / "runtime" / _RUNTIME, carried / KERNELS)
    (site / "checkout.pth").write_text("".join(f"{checkout / part}\n" for part in CODE))
    return python


def _make_python(folder: Path) -> Path:
    """What makes a virtual environment for Python: a link to it, and a file that names its home."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    return python


def _link_runtime(folder: Path, code: Path, kernels: Path) -> None:
    """The runtime package, with the library where the package looks for it."""
    (folder / "kernels").mkdir(parents=True)
    for entry in code.iterdir():
        if entry.name not in ("kernels", "__pycache__"):
            (folder / entry.name).symlink_to(entry)
    for entry in [code / "kernels" / "__init__.py", *kernels.glob("*")]:
        (folder / "kernels" / entry.name).symlink_to(entry.resolve())


def _installed() -> Iterator[Path]:
    """The entries of the folders with the machine's packages, in the order in which Python searches them.

    Files that change the path themselves, `.pth`, are left out.
    """
    for root in map(Path, sys.path):
        if root.name in ("site-packages", "dist-packages") and root.is_dir():
            for entry in root.iterdir():
                if entry.name not in (*_REPLACED_FOLDERS, "__pycache__") and entry.suffix != ".pth":
                    yield entry


def _distribution(entry: Path) -> set[str]:
    """Name of the distribution that a metadata folder belongs to; none for all else."""
    found = re.fullmatch(r"(.+?)-[^-]+\.(?:dist-info|egg-info)", entry.name)
    return {re.sub(r"[-_.]+", "-", found[1]).lower()} if found else set()


def _write_metadata(site: Path, checkout: Path) -> None:
    """Name, version and requirements of the project, as its wheel would have them."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    folder = site / f"dovetail_ort-{project['version']}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.4", f"Name: {project['name']}", f"Version: {project['version']}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [_required(requirement, extra) for requirement in requirements]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def _required(requirement: str, extra: str) -> str:
    name, _, marker = requirement.partition(";")
    condition = f"extra == '{extra}'"
    if marker:
        condition = f"({marker.strip()}) and {condition}"
    return f"Requires-Dist: {name.strip()}; {condition}"
