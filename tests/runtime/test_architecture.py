"""Which package and which room may import which, and what an import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "dovetail_ort_runtime": ROOT / "runtime" / "dovetail_ort_runtime",
    "dovetail_ort_export": ROOT / "export" / "dovetail_ort_export",
    "dovetail_ort": ROOT / "dovetail_ort",
}
# The rooms of the packages, from the ground up: a room imports its own files and those of the rooms below it.
ROOMS = {
    "dovetail_ort_runtime": (
        *("errors", "checks", "arrays", "options", "sampler", "results", "kernels", "machine", "text", "bundle"),
        *("engine", "drafting", "planning", "decoding", "loading", "model", "__init__"),
    ),
    "dovetail_ort_export": (
        *(
            "options",
            "recipe",
            "hub_client",
            "source",
            "heads",
            "tracing",
            "quantization",
            "passes",
            "pipeline",
            "writing",
            "checking",
        ),
        *("exporter", "training", "probing", "attach", "laboratory", "__init__"),
    ),
}
# Everything else that the runtime imports is in the standard library.
RUNTIME_NEEDS = {"dovetail_ort_runtime", "numpy", "onnxruntime", "tokenizers", "jinja2"}


def imports(package):
    """(file, top-level name) of every import in a package, those within functions included."""
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file.name, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file} must import by full name"
                yield file.name, node.module.partition(".")[0]


def imported_modules(package):
    """(importing module, imported module) of every import within a package, by full name."""
    root = PACKAGES[package]
    for file in sorted(root.rglob("*.py")):
        importing = ".".join((package, *file.relative_to(root).with_suffix("").parts))
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == package:
                yield from ((importing, f"{package}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module.startswith(f"{package}."):
                yield importing, node.module


def room_of(module):
    return module.split(".")[1]


def test_the_runtime_imports_nothing_but_its_four_dependencies():
    foreign = {(file, name) for file, name in imports("dovetail_ort_runtime") if name not in sys.stdlib_module_names}
    assert {name for _, name in foreign} <= RUNTIME_NEEDS, foreign


def test_the_exporter_never_imports_the_front_door():
    names = {name for _, name in imports("dovetail_ort_export")}
    assert "dovetail_ort_runtime" in names
    assert "dovetail_ort" not in names


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_nothing_from_the_rooms_above_it(package):
    rooms = ROOMS[package]
    upwards = [
        f"{file}: {imported}"
        for file, imported in imported_modules(package)
        if rooms.index(room_of(imported)) > rooms.index(room_of(file))
    ]
    assert not upwards


@pytest.mark.parametrize("package", ["dovetail_ort_runtime", "dovetail_ort", "dovetail_ort_export"])
def test_importing_a_package_loads_no_training_library(package):
    code = f"import sys, {package}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert package in loaded
    assert not {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "optimum"} & set(loaded)
