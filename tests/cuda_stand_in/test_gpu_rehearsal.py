"""The measurement of `benchmarks.gpu`, from packing to results, on the stand-in of CUDA.

Seen is that every command runs to its end with these packages, this code and the real CUDA provider. Not seen are the
figures: kernels compute nothing here and take no time. The machine's Python is the one that runs the tests, or the one
that GPU_MACHINE_PYTHON names, so that the packages of another machine can be rehearsed; CUDA's own libraries must not
lie beside them. So PyTorch is the CPU's here, and a Python for which there is none, 3.12 with the machine's PyTorch for
CUDA, exports, attaches and trains on that machine for the first time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import pack
from benchmarks.gpu.plan import REHEARSAL, plan

ROOT = Path(__file__).parents[2]
MACHINE_PYTHON = os.environ.get("GPU_MACHINE_PYTHON", sys.executable)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def source(tiny_source):
    """Long enough for HumanEval's prompts in a vocabulary of bytes."""
    return tiny_source("llama", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def head(source, tiny_head, tmp_path_factory):
    from dovetail_ort_export import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("bundle") / "bundle"
    return tiny_head(Path(export_bundle(str(source), out, ExportOptions(precision="fp32")).directory))


@pytest.fixture(scope="module")
def python_version():
    program = "import sys; print('{}.{}'.format(*sys.version_info))"
    return subprocess.run([MACHINE_PYTHON, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_parts_that_come_one_by_one_are_measured_to_the_end(source, head, python_version, libraries, tmp_path):
    packed, out = tmp_path / "packed", tmp_path / "out"
    options = ["--out", packed, "--part-size", "20MB", "--python", python_version, "--source", source]
    pack.main([str(option) for option in options])
    parts = sorted((packed / "parts").iterdir())
    assert len(parts) > 1
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    environment.pop("PYTHONPATH", None)
    for part in parts:
        command = [MACHINE_PYTHON, "-m", "benchmarks.gpu.measure", part, "--rehearsal", "--latest", "3600"]
        command += ["--folder", tmp_path / "machine", "--out", out, "--head", head]
        subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, check=True)
    (results,) = out.glob("*/gpu.json")
    steps = json.loads(results.read_text())["steps"]
    assert set(steps) == {step.name for step in plan(REHEARSAL, source, head, tmp_path)}
    assert {name for name, step in steps.items() if "result" not in step} == {"device-tests"}
