"""The wheel by itself: what is in it, and that it generates in an environment that has nothing else."""

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from dovetail_ort.server.page_files import PAGE_PATHS

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {"dovetail_ort", "dovetail_ort_export", "dovetail_ort_runtime"}
LARGEST_WHEEL_BYTES = 400_000

GENERATE = """
import importlib.util, json, sys
import dovetail_ort
from dovetail_ort import GenerationOptions

model = dovetail_ort.load(sys.argv[1])
answers = [
    model.generate("one two one two one", GenerationOptions(max_new_tokens=24, max_draft_tokens=drafts)).token_ids
    for drafts in (0, 8)
]
absent = [name for name in ("torch", "transformers", "onnx", "optimum") if importlib.util.find_spec(name) is None]
print(json.dumps({"answers": answers, "absent": absent}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_the_three_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {f"dovetail_ort/server/page/{name}" for name, _ in PAGE_PATHS.values()} <= set(names)
    assert wheel.stat().st_size < LARGEST_WHEEL_BYTES


@pytest.mark.slow
def test_wheel_generates_exactly_where_torch_transformers_and_onnx_are_absent(wheel, tiny_bundle, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]"], check=True, capture_output=True)
    result = subprocess.run(
        [python, "-c", GENERATE, str(tiny_bundle)], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    printed = json.loads(result.stdout)
    assert printed["absent"] == ["torch", "transformers", "onnx", "optimum"]
    plain, speculative = printed["answers"]
    assert plain == speculative
    assert len(plain) > 1
    command = subprocess.run([environment / "bin" / "dovetail-ort", "export", "x", "y"], capture_output=True, text=True)
    assert command.returncode == 2
    assert "dovetail-ort[export]" in command.stderr.splitlines()[-1]
    assert "Traceback" not in command.stderr
