"""The environment of links, with the Python that runs the tests as the machine's."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu.environment import KERNELS, make_environment
from dovetail_ort_runtime import kernels

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def carried(tmp_path):
    """ONNX Runtime for CUDA, and a package that is installed here in another version."""
    folder = tmp_path / "carried"
    for name, version in (("onnxruntime", "9.9"), ("jinja2", "9.8")):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f'__version__ = "{version}"\n')
    for name, version in (("onnxruntime_gpu", "9.9"), ("Jinja2", "9.8")):
        (folder / f"{name}-{version}.dist-info").mkdir()
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (folder / KERNELS).mkdir()
    shutil.copy2(kernels.library_path(), folder / KERNELS)
    return folder


@pytest.fixture
def python(carried, tmp_path):
    return make_environment(tmp_path / "environment", carried, CHECKOUT)


def output(python, program):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return json.loads(subprocess.run([python, "-c", program], check=True, capture_output=True, env=environment).stdout)


def test_what_was_carried_goes_before_the_machines_packages(python):
    program = "import json, jinja2, onnxruntime; print(json.dumps([jinja2.__version__, onnxruntime.__version__]))"
    assert output(python, program) == ["9.8", "9.9"]


def test_there_is_one_onnxruntime_and_one_of_every_package_that_was_carried(python):
    program = """
import importlib.metadata, json
names = [found.name.lower() for found in importlib.metadata.distributions()]
print(json.dumps([names.count(name) for name in ("onnxruntime", "onnxruntime_gpu", "jinja2", "dovetail-ort")]))
"""
    assert output(python, program) == [0, 1, 1, 1]


def test_all_other_packages_are_the_machines(python):
    program = "import json, numpy, tokenizers; print(json.dumps([numpy.__version__, tokenizers.__version__]))"
    assert output(python, program) == [importlib.metadata.version(name) for name in ("numpy", "tokenizers")]


def test_the_code_is_the_checkouts(python):
    program = "import json, dovetail_ort, benchmarks.gpu; print(json.dumps(dovetail_ort.__file__))"
    assert Path(output(python, program)) == CHECKOUT / "dovetail_ort" / "__init__.py"


def test_native_operators_come_from_the_library_that_was_carried(python):
    program = """
import json
from dovetail_ort_runtime import kernels
print(json.dumps([str(kernels.library_path()), kernels.is_available()]))
"""
    path, is_available = output(python, program)
    assert Path(path).is_relative_to(python.parents[1])
    assert is_available


def test_the_project_requires_what_its_wheel_requires(python):
    built = importlib.metadata.requires("dovetail-ort")
    program = 'import importlib.metadata, json; print(json.dumps(importlib.metadata.requires("dovetail-ort")))'
    assert requirements(output(python, program)) == requirements(built)


def requirements(lines):
    return {(found.name, str(found.specifier), str(found.marker)) for found in map(Requirement, lines)}
