"""The wheel by itself: what is in it, what comes with it, and that it generates where nothing else is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {
    "dovetail_ort": REPOSITORY / "dovetail_ort",
    "dovetail_ort_export": REPOSITORY / "export" / "dovetail_ort_export",
    "dovetail_ort_runtime": REPOSITORY / "runtime" / "dovetail_ort_runtime",
}
LARGEST_INSTALLED_BYTES = 220_000_000
EXPORT_ONLY = {"torch", "transformers", "onnx", "optimum"}

GENERATE = """
import importlib, json, sys

package = importlib.import_module(sys.argv[1])
load = getattr(package, "load", None) or package.load_model
model = load(sys.argv[2])
answers = [
    model.generate("one two one two one", package.GenerationOptions(max_new_tokens=24, max_draft_tokens=drafts))
    for drafts in (0, 8)
]
print(json.dumps({"file": package.__file__, "answers": [answer.token_ids for answer in answers]}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def install(environment, *requirements):
    """A new environment with these and what they require, from wheels alone: nothing is compiled."""
    venv.create(environment)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    result = subprocess.run([*pip, "--only-binary=:all:", *requirements], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def site_packages(environment):
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))


def generate(environment, package, bundle, directory):
    """What GENERATE prints in the environment, without this repository on the path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [environment / "bin" / "python", "-c", GENERATE, package, str(bundle)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=variables)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def wheel_environment(wheel, tmp_path_factory):
    """An environment that was empty before the wheel was installed with `[cpu]`."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    install(environment, f"{wheel}[cpu]")
    return environment


def test_the_wheel_holds_every_file_of_the_three_packages_and_nothing_else(wheel):
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= found
    assert "dovetail_ort_export/recipes/row.toml" in found
    assert not {name for name in found if "test" in name}


def test_the_page_on_a_package_index_opens_like_the_readme_and_has_no_link_into_the_repository(wheel):
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA")]
    _, _, page = zipfile.ZipFile(wheel).read(name).decode().partition("\n\n")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    opening, quick_start = page.split("## Quick start")
    assert readme.startswith(opening)
    assert "pip install 'dovetail-ort[cpu,export]'" in quick_start
    assert "dovetail_ort.load(" in quick_start
    assert not re.findall(r"\]\((?!https://)|<img|^\|", page, re.MULTILINE)


@pytest.mark.slow
def test_an_installed_wheel_takes_less_than_220_megabytes(wheel_environment):
    sizes = (path.stat().st_size for path in site_packages(wheel_environment).rglob("*") if path.is_file())
    assert sum(sizes) < LARGEST_INSTALLED_BYTES


@pytest.mark.slow
def test_an_installed_wheel_brings_no_package_of_the_exporter(wheel_environment):
    installed = {path.name.partition("-")[0] for path in site_packages(wheel_environment).iterdir()}
    assert {"dovetail_ort", "onnxruntime", "numpy", "tokenizers", "jinja2"} <= installed
    assert not EXPORT_ONLY & installed


@pytest.mark.slow
def test_an_installed_wheel_generates_exactly(wheel_environment, tiny_bundle, tmp_path):
    printed = generate(wheel_environment, "dovetail_ort", tiny_bundle, tmp_path)
    assert Path(printed["file"]).is_relative_to(wheel_environment)
    plain, speculative = printed["answers"]
    assert plain == speculative
    assert len(plain) > 1


@pytest.mark.slow
def test_an_installed_wheel_names_the_extra_that_export_needs(wheel_environment):
    program = wheel_environment / "bin" / "dovetail-ort"
    result = subprocess.run([program, "export", "x", "y"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "dovetail-ort[export]" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_runtime_works_when_its_folder_is_copied_into_another_project(tiny_drafting_bundle, tmp_path):
    environment, project = tmp_path / "environment", tmp_path / "project"
    install(environment, "numpy", "onnxruntime", "tokenizers", "jinja2")
    shutil.copytree(PACKAGES["dovetail_ort_runtime"], project / "dovetail_ort_runtime")
    printed = generate(environment, "dovetail_ort_runtime", tiny_drafting_bundle, project)
    assert Path(printed["file"]).is_relative_to(project)
    plain, speculative = printed["answers"]
    assert plain == speculative
    assert len(plain) > 1
