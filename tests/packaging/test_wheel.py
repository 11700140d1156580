"""The wheel by itself: what is in it, what comes with it, and that it generates where nothing else is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from dovetail_ort_runtime import kernels

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {
    "dovetail_ort": REPOSITORY / "dovetail_ort",
    "dovetail_ort_export": REPOSITORY / "export" / "dovetail_ort_export",
    "dovetail_ort_runtime": REPOSITORY / "runtime" / "dovetail_ort_runtime",
}
KERNEL_SOURCE = PACKAGES["dovetail_ort_runtime"] / "kernels" / "source"
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


DESCRIBE = """
import json
from dovetail_ort_runtime import kernels

print(json.dumps([kernels.why_missing(), str(kernels.library_path())]))
"""


def build(out, kind, **environment):
    """The wheel or sdist of this repository, made without isolation: build dependencies are those of `[dev]`."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheel"), "wheel", DOVETAIL_REQUIRE_KERNELS="1")


@pytest.fixture(scope="module")
def wheel_without_compiler(tmp_path_factory):
    environment = {"CXX": shutil.which("false"), "DOVETAIL_REQUIRE_KERNELS": ""}
    return build(tmp_path_factory.mktemp("wheel-without-compiler"), "wheel", **environment)


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


def files_of_the_packages():
    """Names in a wheel of all files of the three packages, without what is compiled and what is made of it."""
    return {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix != ".so"
        and KERNEL_SOURCE not in path.parents
    }


def names_in(wheel):
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_three_packages_with_the_library_and_nothing_else(wheel):
    library = f"dovetail_ort_runtime/kernels/{kernels.library_path().name}"
    found = names_in(wheel)
    assert found == files_of_the_packages() | {library}
    assert {f"{package}/py.typed" for package in PACKAGES} <= found
    assert {"dovetail_ort_export/recipes/native.toml", "dovetail_ort_export/recipes/portable.toml"} <= found
    assert not {name for name in found if "test" in name}


def test_one_wheel_of_a_platform_is_for_every_python(wheel):
    assert re.fullmatch(r"dovetail_ort-[\d.]+-py3-none-(?!any)\w+\.whl", wheel.name)


def test_without_a_compiler_the_wheel_is_for_every_platform_and_holds_all_but_the_library(wheel_without_compiler):
    assert wheel_without_compiler.name.endswith("-py3-none-any.whl")
    assert names_in(wheel_without_compiler) == files_of_the_packages()


def test_a_wheel_that_must_have_the_library_is_not_made_without_a_compiler(tmp_path):
    environment = {"CXX": shutil.which("false"), "DOVETAIL_REQUIRE_KERNELS": "1"}
    with pytest.raises(AssertionError, match="CMake"):
        build(tmp_path, "wheel", **environment)


def test_the_source_distribution_holds_what_the_library_is_built_of(tmp_path):
    with tarfile.open(build(tmp_path, "sdist")) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(REPOSITORY).as_posix() for path in KERNEL_SOURCE.iterdir()} <= found
    assert {"CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"} <= found
    assert not {name for name in found if name.endswith((".so", ".pyc"))}


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


def describe_library(environment):
    """Why the environment's library cannot be used or None, and its path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [environment / "bin" / "python", "-c", DESCRIBE]
    result = subprocess.run(command, capture_output=True, text=True, cwd=environment, env=variables)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_an_installed_wheel_has_its_own_library(wheel_environment):
    reason, path = describe_library(wheel_environment)
    assert reason is None
    assert Path(path).is_relative_to(wheel_environment)


@pytest.mark.slow
def test_where_there_was_no_compiler_a_line_names_a_command_that_works_when_there_is_one(tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "numpy", "onnxruntime", "tokenizers", "jinja2", "packaging"], check=True)
    without = {**os.environ, "CXX": shutil.which("false"), "DOVETAIL_REQUIRE_KERNELS": ""}
    subprocess.run([*pip, "--no-deps", REPOSITORY], check=True, env=without)
    reason, path = describe_library(environment)
    assert path == "None"
    _, _, command = reason.partition("; install a C++17 compiler and run: ")
    path_variable = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, check=True, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path_variable})
    reason, path = describe_library(environment)
    assert reason is None
    assert Path(path).is_relative_to(environment)


@pytest.mark.slow
def test_an_installed_wheel_generates_exactly(wheel_environment, tiny_bundle, tmp_path):
    printed = generate(wheel_environment, "dovetail_ort", tiny_bundle, tmp_path)
    assert Path(printed["file"]).is_relative_to(wheel_environment)
    baseline, speculative = printed["answers"]
    assert baseline == speculative
    assert len(baseline) > 1


@pytest.mark.slow
def test_an_installed_wheel_names_the_extra_that_export_needs(wheel_environment):
    program = wheel_environment / "bin" / "dovetail-ort"
    result = subprocess.run([program, "export", "x", "y"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "dovetail-ort[export]" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_runtime_works_when_its_folder_is_copied_into_another_project(
    wheel_environment, tiny_drafting_bundle, tmp_path
):
    """With its library: the bundle is native."""
    environment, project = tmp_path / "environment", tmp_path / "project"
    install(environment, "numpy", "onnxruntime", "tokenizers", "jinja2")
    shutil.copytree(site_packages(wheel_environment) / "dovetail_ort_runtime", project / "dovetail_ort_runtime")
    printed = generate(environment, "dovetail_ort_runtime", tiny_drafting_bundle, project)
    assert Path(printed["file"]).is_relative_to(project)
    baseline, speculative = printed["answers"]
    assert baseline == speculative
    assert len(baseline) > 1
