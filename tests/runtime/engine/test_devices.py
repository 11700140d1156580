"""Where sessions run: a GPU that is asked for and is not there is an error, never a silent fallback."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine import devices
from dovetail_ort_runtime.engine.devices import has_cuda, require_cuda
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.errors import InputError, UnavailableError
from dovetail_ort_runtime.machine import cuda_libraries, cuda_runtime

HALF = 2  # bytes of a number in the cache of a native graph


def test_without_the_package_for_cuda_its_name_and_command_are_given():
    with pytest.raises(UnavailableError, match=r'needs the package onnxruntime-gpu.*pip install "dovetail-ort\[gpu\]"'):
        require_cuda()


@pytest.fixture
def with_gpu_package(monkeypatch, tmp_path):
    """An onnxruntime-gpu of files that are none, with a driver."""
    folder = tmp_path / "capi"
    folder.mkdir()
    for name in ("shared", "cuda"):
        (folder / f"libonnxruntime_providers_{name}.so").write_bytes(b"no library")
    fake = SimpleNamespace(
        __file__=str(tmp_path / "__init__.py"),
        __version__="1.31.1",
        cuda_version="13.0",
        get_available_providers=lambda: ["CUDAExecutionProvider"],
        preload_dlls=lambda **settings: print("what it prints stays out of the output"),
    )
    monkeypatch.setattr(devices, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(cuda_libraries, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(devices, "load_driver", lambda: None)
    monkeypatch.setattr(cuda_runtime, "_DRIVER_FILE", tmp_path / "no driver")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


@pytest.fixture
def runtime(monkeypatch, with_gpu_package):
    """`runtime(status, devices)`: a CUDA runtime that answers so when it is asked for the number of devices."""

    def answer(status, devices=0, *, newest=0):
        def count(number):
            number._obj.value = devices
            return status

        def version(number):
            number._obj.value = newest
            return 0

        names = {0: b"no error", 3: b"initialization error", 100: b"no CUDA-capable device is detected"}
        fake = SimpleNamespace(
            cudaGetDeviceCount=count, cudaDriverGetVersion=version, cudaGetErrorString=lambda status: names[status]
        )
        monkeypatch.setattr(cuda_runtime, "load_runtime", lambda: fake)

    monkeypatch.setattr(devices, "load_provider", lambda: None)
    return answer


def test_a_missing_cuda_library_is_named(with_gpu_package, capsys):
    """What the loader says of a library, here of a file that is none, reaches the user."""
    with pytest.raises(UnavailableError, match=r"library that onnxruntime-gpu 1.31.1 .*providers_shared.so"):
        require_cuda()
    assert not capsys.readouterr().out


def test_a_missing_driver_is_named_with_the_one_that_is_needed(with_gpu_package, monkeypatch):
    def missing():
        raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(devices, "load_driver", missing)
    with pytest.raises(UnavailableError, match=r"driver must be 580 or newer for CUDA 13.0, got none .*libcuda.so.1"):
        require_cuda()
    assert not has_cuda()


def test_cuda_is_there_where_the_runtime_counts_a_device(runtime):
    runtime(0, 1)
    assert has_cuda()


@pytest.mark.parametrize(
    ("status", "newest", "visible", "message"),
    [
        (35, 12040, None, "driver must be 580 or newer for CUDA 13.0, got one for CUDA 12.4;"),
        (35, 0, None, "driver must be 580 or newer for CUDA 13.0, got none;"),
        (100, 13000, None, "can use: no CUDA-capable device is detected;"),
        (100, 13000, "", "can use: no CUDA-capable device is detected with CUDA_VISIBLE_DEVICES='';"),
        (3, 13000, None, "can use: initialization error;"),
        (0, 13000, None, "can use: no device;"),
    ],
)
def test_without_a_device_the_reason_is_one_line(runtime, monkeypatch, status, newest, visible, message):
    """The numbers are those of cudaError_t."""
    runtime(status, newest=newest)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UnavailableError) as caught:
        require_cuda()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not has_cuda()


def test_the_driver_is_named_as_the_kernel_does(runtime, monkeypatch, tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build\nGCC 12.3.0\n")
    monkeypatch.setattr(cuda_runtime, "_DRIVER_FILE", file)
    runtime(35, newest=12020)
    with pytest.raises(UnavailableError, match=r"for CUDA 13.0, got 535.104.05;"):
        require_cuda()


def test_without_a_device_an_fp16_drafter_runs_on_the_cpu(runtime, load, tiny_bundle, tiny_head, tmp_path):
    from dovetail_ort_export.attach import attach_drafter

    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    attach_drafter(tmp_path / "bundle", tiny_head(tiny_bundle), precision="fp16")
    runtime(100)
    assert [report.device for report in load(bundle=tmp_path / "bundle").sessions()] == ["cpu", "cpu"]
    with pytest.raises(UnavailableError, match="no CUDA-capable device is detected"):
        load(bundle=tmp_path / "bundle", drafter_device="cuda")


def test_without_a_device_the_first_blocks_run_on_the_cpu(runtime, load, tiny_cut_bundle):
    runtime(100)
    assert [report.device for report in load(bundle=tiny_cut_bundle).sessions()] == ["cpu", "cpu"]
    with pytest.raises(UnavailableError, match="no CUDA-capable device is detected"):
        load(bundle=tiny_cut_bundle, target_layers_on_gpu=1)


def fp16(bundle):
    return dataclasses.replace(bundle.manifest.drafter, precision="fp16")


def test_cuda_takes_drafters_in_fp16_only(tiny_drafting_bundle):
    bundle = Bundle(tiny_drafting_bundle)
    entry = bundle.manifest.drafter
    with pytest.raises(InputError, match="a drafter on CUDA must be in fp16, got int4; attach it again"):
        DraftGraph(bundle.path(entry.graph), entry, capacity=64, threads=1, device="cuda")
    with pytest.raises(UnavailableError, match="onnxruntime-gpu"):
        DraftGraph(bundle.path(entry.graph), fp16(bundle), capacity=64, threads=1, device="cuda")


def test_a_limit_that_does_not_hold_weights_and_cache_is_refused(tiny_drafting_bundle_portable):
    bundle = Bundle(tiny_drafting_bundle_portable)
    entry = bundle.manifest.drafter
    weights = sum(file.num_bytes for file in bundle.manifest.files if file.path.startswith(entry.graph))
    cache = 2 * entry.num_layers * entry.num_kv_heads * 64 * entry.head_size * 4

    def load(limit):
        return DraftGraph(bundle.path(entry.graph), entry, capacity=64, threads=1, vram_limit=limit)

    with pytest.raises(InputError, match=f"vram_limit must hold {weights} bytes of weights and {cache} of cache, got"):
        load(weights + cache - 1)
    assert load(weights + cache).report().cache_bytes == cache


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drafter_device": "tpu"}, "the drafter's device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"drafter_device": "cuda"}, "only a draft head runs on cuda, and the drafter auto has none here"),
        ({"drafter": "lookup", "drafter_device": "cuda"}, "the drafter lookup has none here"),
        ({"vram_limit": "plenty"}, "a size must be a number of bytes above 0 such as 3GB, got 'plenty'"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(load, settings, message):
    with pytest.raises(InputError, match=message):
        load(**settings)


def test_a_language_model_drafts_on_the_cpu(load, tiny_bundle):
    with pytest.raises(InputError, match="the drafter lm runs on the CPU only"):
        load(drafter="lm", draft_bundle=tiny_bundle, drafter_device="cuda")
