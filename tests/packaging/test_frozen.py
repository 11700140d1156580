"""The example application, frozen: it answers where there is no Python."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dovetail_ort
from dovetail_ort import GenerationOptions
from dovetail_ort_runtime import kernels

REPOSITORY = Path(__file__).parents[2]
PROMPT = "Größe, naïve café"

pytestmark = pytest.mark.slow  # about half a minute to build


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    """Directory of the frozen program, without a bundle."""
    out = tmp_path_factory.mktemp("frozen")
    folders = ["--distpath", str(out), "--workpath", str(out / "work")]
    spec = str(REPOSITORY / "examples" / "frozen" / "ask.spec")
    subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--noconfirm", *folders, spec], check=True, capture_output=True
    )
    return out / "ask"


@pytest.fixture
def ask(application, tmp_path):
    """`ask(*words)`: run the program from elsewhere, in an environment of a home directory and nothing else."""
    program = shutil.copytree(application, tmp_path / "application", symlinks=True) / "ask"
    home = tmp_path / "home"
    home.mkdir()

    def run(*words, **settings):
        command = [str(program), *words]
        settings = {"stdin": subprocess.DEVNULL, **settings}
        return subprocess.run(command, env={"HOME": str(home)}, cwd=home, capture_output=True, **settings)

    return run


def test_a_frozen_application_gives_the_answer_of_the_library(ask, tiny_drafting_bundle, tmp_path):
    shutil.copytree(tiny_drafting_bundle, tmp_path / "application" / "bundle")
    result = ask(*PROMPT.split())
    assert result.returncode == 0, result.stderr.decode()
    model = dovetail_ort.load(tiny_drafting_bundle)
    expected = model.generate([{"role": "user", "content": PROMPT}], GenerationOptions(max_new_tokens=256))
    assert expected.text
    assert result.stdout.decode() == expected.text + "\n"


def test_a_frozen_application_contains_no_training_library(application):
    names = {path.name.partition("-")[0] for path in (application / "_internal").iterdir()}
    assert {"numpy", "onnxruntime", "tokenizers"} <= names
    assert not {"torch", "transformers", "onnx", "optimum", "huggingface_hub"} & names


def test_a_frozen_application_carries_the_library_of_native_operators(application):
    library = application / "_internal" / "dovetail_ort_runtime" / "kernels" / kernels.library_path().name
    assert library.read_bytes() == kernels.library_path().read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what a process has mapped")
def test_a_frozen_application_maps_no_file_of_an_installed_python(application, tiny_bundle, tmp_path):
    program = shutil.copytree(application, tmp_path / "application", symlinks=True) / "ask"
    shutil.copytree(tiny_bundle, program.parent / "bundle")
    command, environment = [program, PROMPT], {"HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(1)
        process.send_signal(signal.SIGSTOP)  # in the middle of its answer, with everything loaded
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        process.kill()
    mapped = {line.split(maxsplit=5)[5] for line in lines if "/" in line}
    assert any("onnxruntime" in path for path in mapped)
    assert any(path.endswith(kernels.library_path().name) for path in mapped)  # the bundle is native
    assert not {path for path in mapped if "python" in path and not path.startswith(str(program.parent))}


def test_a_frozen_application_without_its_bundle_says_so_in_one_line(ask):
    result = ask("anything")
    assert result.returncode == 2
    assert result.stdout == b""
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("ask: a bundle must be a directory with a manifest.json")
