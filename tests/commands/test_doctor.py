"""`dovetail-ort doctor`: what it finds, and what it says about CUDA, for which a fake answers."""

from __future__ import annotations

import json
import re
import shutil
from types import SimpleNamespace

import pytest

from dovetail_ort import health
from dovetail_ort.cli.main import main
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.session import try_cuda
from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.machine import onnx_runtime
from dovetail_ort_runtime.machine.cuda_runtime import CudaVersions

FOUND = CudaVersions(needed_cuda="13.0", needed_driver="580", driver="580.65.06", cuda="13.0", cudnn="9.12.0")


@pytest.fixture
def with_gpu_package(monkeypatch):
    """`with_gpu_package(run, versions)`: ONNX Runtime has the CUDA provider, and `run` is what the trial does."""

    def install(run=lambda: None, versions=FOUND):
        ort = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
        monkeypatch.setattr(health, "import_onnxruntime", lambda: ort)
        monkeypatch.setattr(health, "cuda_versions", lambda: versions)
        monkeypatch.setattr(health, "device_name", lambda: "NVIDIA H100")
        monkeypatch.setattr(health, "try_cuda", run)

    return install


def checks(capsys, *arguments):
    assert main(["doctor", *arguments, "--json"]) == 0
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def refuse():
    raise UnavailableError('CUDA must have the libraries, got: none; run: pip install "onnxruntime-gpu[cuda,cudnn]"')


def test_cuda_is_ok_where_a_graph_ran(with_gpu_package, capsys):
    with_gpu_package()
    found = checks(capsys)
    assert found["cuda"]["status"] == "ok"
    assert "NVIDIA H100" in found["cuda"]["found"]
    versions = found["cuda versions"]
    assert versions["status"] == "ok"
    assert all(text in versions["found"] for text in ("580.65.06", "needed 580", "CUDA 13.0", "needed 13.0", "9.12.0"))


def test_where_no_graph_runs_the_reason_and_the_remedy_are_given(with_gpu_package, capsys):
    """A note: all else works on the CPU."""
    nothing = CudaVersions(needed_cuda="13.0", needed_driver="580", driver=None, cuda=None, cudnn=None)
    with_gpu_package(refuse, nothing)
    found = checks(capsys)
    assert found["cuda"]["status"] == found["cuda versions"]["status"] == "note"
    assert found["cuda"]["found"] == "CUDA must have the libraries, got: none"
    assert found["cuda"]["remedy"] == 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    assert "driver none" in found["cuda versions"]["found"]


def test_the_trial_is_a_graph_that_runs():
    try_cuda("cpu")


@pytest.mark.parametrize(
    ("run", "precision", "device"), [(None, "fp16", "cuda"), (None, "int8", "cpu"), (refuse, "fp16", "cpu")]
)
def test_a_drafter_in_half_precision_is_opened_on_cuda_if_that_works(
    with_gpu_package, tiny_bundle, tiny_head, tmp_path, capsys, monkeypatch, run, precision, device
):
    from dovetail_ort_export.attach import attach_drafter

    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    attach_drafter(tmp_path / "bundle", tiny_head(tiny_bundle), precision=precision)
    asked = []

    def opened(*arguments, device, **settings):
        asked.append(device)
        return DraftGraph(*arguments, **settings)

    monkeypatch.setattr(health, "DraftGraph", opened)
    with_gpu_package(run or (lambda: None))
    assert checks(capsys, str(tmp_path / "bundle"))["drafter"]["status"] == "ok"
    assert asked == [device]


def test_the_level_the_library_and_the_versions_of_the_native_operators_are_shown(capsys):
    found = checks(capsys)["native operators"]
    assert found["status"] == "ok"
    for part in (
        kernels.level(),
        *kernels.levels(),
        f"operators {kernels.OPERATOR_VERSION}",
        str(kernels.library_path()),
    ):
        assert part in found["found"]


def test_without_the_library_a_note_has_the_command_that_builds_one(monkeypatch, capsys):
    """A note: portable bundles work."""
    monkeypatch.setattr(kernels, "library_path", lambda: None)
    kernels.why_missing.cache_clear()
    try:
        found = checks(capsys)
    finally:
        kernels.why_missing.cache_clear()
    assert found["native operators"]["status"] == "note"
    assert "without its library" in found["native operators"]["found"]
    assert "pip install" in found["native operators"]["remedy"]
    assert "--no-cache-dir --force-reinstall" in found["native operators"]["remedy"]
    assert "bits" not in found


def test_a_level_that_this_processor_lacks_must_be_mended(monkeypatch, capsys):
    def refuse_level():
        raise UnavailableError("DOVETAIL_KERNELS must be one of portable, got neon; unset it")

    monkeypatch.setattr(kernels, "level", refuse_level)
    assert main(["doctor", "--json"]) == 1
    (found,) = [one for one in json.loads(capsys.readouterr().out)["checks"] if one["name"] == "native operators"]
    assert (found["status"], found["remedy"]) == ("problem", "unset it")


def test_doctor_checks_the_bundle_too(tiny_bundle, capsys):
    assert main(["doctor", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert "[ok] onnxruntime" in out
    assert "[ok] exactness" in out
    assert "[!!]" not in out


def test_doctor_knows_whether_the_bundle_drafts(tiny_bundle, tiny_drafting_bundle, capsys):
    assert main(["doctor", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\[--\] drafter +none, prompt lookup drafts alone", out)
    assert "optional: dovetail-ort train BUNDLE HEAD, then dovetail-ort attach" in out
    assert main(["doctor", str(tiny_drafting_bundle)]) == 0
    assert re.search(r"\[ok\] drafter +gating, 2 blocks, int4", capsys.readouterr().out)


@pytest.mark.parametrize(("share", "status"), [(0.05, "note"), (0.5, "ok")])
def test_doctor_warns_of_a_drafter_that_loses(tiny_drafting_bundle, tmp_path, change_manifest, capsys, share, status):
    bundle = shutil.copytree(tiny_drafting_bundle, tmp_path / "bundle")

    def measured(manifest):
        manifest["drafter"]["acceptance"] = [{"text": "short prompts", "num_tokens": 9, "by_depth": [share]}]

    change_manifest(bundle, measured)
    found = checks(capsys, str(bundle))["drafter"]
    assert found["status"] == status
    assert found["remedy"] == ("dovetail-ort attach BUNDLE --none" if status == "note" else None)


def test_doctor_finds_two_onnxruntimes_and_names_the_remedy(capsys, monkeypatch):
    # numpy stands for the second distribution
    monkeypatch.setattr(onnx_runtime, "_DISTRIBUTIONS", ("onnxruntime", "numpy"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "[!!] onnxruntime" in out
    assert "to repair: pip uninstall -y onnxruntime onnxruntime-gpu" in out
    assert main(["doctor", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["healthy"]


def test_doctor_does_without_the_export_packages(capsys, monkeypatch):
    from importlib import metadata

    version = metadata.version

    def without_torch(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "4.40.0" if name == "transformers" else version(name)

    monkeypatch.setattr(metadata, "version", without_torch)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("[--] [export] torch") and "not installed" in line for line in lines)
    assert any(line.startswith("[--] [export] transformers") and "4.40.0, must be" in line for line in lines)
    assert lines[-1] == 'optional: pip install "dovetail-ort[export]"'


@pytest.mark.parametrize("extra", ["export", "server", "hub"])
def test_doctor_names_the_extra_of_a_package_that_is_absent(extra, capsys, monkeypatch):
    requirements = ["numpy>=1.26", f"no-such-package>=1; extra == '{extra}'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requirements)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"[--] [{extra}] no-such-package") and "not installed" in line for line in lines)
    assert lines[-1] == f'optional: pip install "dovetail-ort[{extra}]"'
