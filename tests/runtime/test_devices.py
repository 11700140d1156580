"""Where sessions run: a GPU that is asked for and is not there is an error, never a silent fallback."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from dovetail_ort_runtime import devices, session
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.devices import parse_bytes, require_cuda, vram_in_use
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.errors import InputError, UnavailableError


def test_every_session_says_where_it_runs(load, tiny_drafting_bundle):
    model = load(bundle=tiny_drafting_bundle)
    target, drafter = model.sessions()
    assert (target.name, drafter.name) == ("target", "drafter")
    for report in (target, drafter):
        assert report.device == "cpu"
        assert list(report.nodes) == ["CPUExecutionProvider"]
        assert report.nodes["CPUExecutionProvider"] > 5
        assert report.threads == 1
        assert report.vram_bytes is None
    entry = model.manifest.target
    assert target.cache_bytes == 2 * entry.num_layers * entry.num_kv_heads * entry.max_context * entry.head_size * 4
    sizes = {file.path: file.num_bytes for file in model.manifest.files}
    assert target.weight_bytes == sum(size for path, size in sizes.items() if path.startswith(entry.graph))
    assert [report.name for report in load(drafter="lookup", bundle=tiny_drafting_bundle).sessions()] == ["target"]
    copy = load(drafter="lm", draft_bundle=tiny_drafting_bundle).sessions()
    assert [report.name for report in copy] == ["target", "drafter"]


def test_without_the_package_for_cuda_its_name_and_command_are_given():
    with pytest.raises(
        UnavailableError, match=r"must have the package onnxruntime-gpu.*pip install 'dovetail-ort\[gpu\]'"
    ):
        require_cuda()


def test_a_missing_cuda_library_is_named(monkeypatch, tmp_path):
    """What the loader says of a library, here of a file that is none, reaches the user."""
    folder = tmp_path / "capi"
    folder.mkdir()
    (folder / "libonnxruntime_providers_shared.so").write_bytes(b"no library")
    fake = SimpleNamespace(
        __file__=str(tmp_path / "__init__.py"),
        __version__="1.31.1",
        get_available_providers=lambda: ["CUDAExecutionProvider"],
        preload_dlls=lambda directory: print("what it prints stays out of the output"),
    )
    monkeypatch.setattr(devices, "import_onnxruntime", lambda: fake)
    with pytest.raises(UnavailableError, match=r"libraries that onnxruntime-gpu 1.31.1 .*providers_shared.so"):
        require_cuda()


@pytest.mark.parametrize(("status", "in_use"), [(0, 5 << 30), (35, None)])
def test_the_memory_in_use_of_a_gpu_is_what_the_cuda_runtime_says(monkeypatch, status, in_use):
    """Also where it has no driver, status 35, or where its library is not found by way of ONNX Runtime's."""

    def memory(free, total):
        free._obj.value, total._obj.value = 3 << 30, 8 << 30
        return status

    monkeypatch.setattr(devices, "_provider_library", lambda name: SimpleNamespace(cudaMemGetInfo=memory))
    assert vram_in_use() == in_use
    monkeypatch.setattr(devices, "_provider_library", lambda name: SimpleNamespace())
    assert vram_in_use() is None


def test_a_session_on_a_gpu_says_how_much_of_its_memory_is_in_use(monkeypatch, load, tiny_drafting_bundle):
    cpu = load(bundle=tiny_drafting_bundle)._decoder.target.session
    monkeypatch.setattr(session, "vram_in_use", lambda: 123)
    known = {"name": "drafter", "threads": 1, "weight_bytes": 2, "cache_bytes": 3}
    assert session.report_session(cpu, device="cuda", **known).vram_bytes == 123
    assert session.report_session(cpu, device="cpu", **known).vram_bytes is None


def fp16(bundle):
    return dataclasses.replace(bundle.manifest.drafter, precision="fp16")


def test_cuda_takes_drafters_in_fp16_only(tiny_drafting_bundle):
    bundle = Bundle(tiny_drafting_bundle)
    entry = bundle.manifest.drafter
    with pytest.raises(InputError, match="a drafter on CUDA must be in fp16, got int8; attach it again"):
        DraftModel(bundle.path(entry.graph), entry, capacity=64, threads=1, device="cuda")
    with pytest.raises(UnavailableError, match="onnxruntime-gpu"):
        DraftModel(bundle.path(entry.graph), fp16(bundle), capacity=64, threads=1, device="cuda")


def test_a_limit_that_does_not_hold_weights_and_cache_is_refused(tiny_drafting_bundle):
    bundle = Bundle(tiny_drafting_bundle)
    entry = bundle.manifest.drafter
    weights = sum(file.num_bytes for file in bundle.manifest.files if file.path.startswith(entry.graph))
    cache = 2 * entry.num_layers * entry.num_kv_heads * 64 * entry.head_size * 4

    def load(limit):
        return DraftModel(bundle.path(entry.graph), entry, capacity=64, threads=1, vram_limit=limit)

    with pytest.raises(InputError, match=f"vram_limit must hold {weights} bytes of weights and {cache} of cache, got"):
        load(weights + cache - 1)
    assert load(weights + cache).report().cache_bytes == cache


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drafter_device": "tpu"}, "the drafter's device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"drafter_device": "cuda"}, "the device cuda must be for a model that drafts, got the drafter auto without"),
        ({"drafter": "lookup", "drafter_device": "cuda"}, "got the drafter lookup without"),
        ({"vram_limit": "plenty"}, "a size must be a number of bytes above 0 such as 3GB, got 'plenty'"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(load, settings, message):
    with pytest.raises(InputError, match=message):
        load(**settings)


def test_a_language_model_drafts_on_the_cpu(load, tiny_bundle):
    with pytest.raises(InputError, match="the drafter lm must run on the CPU, got the device cuda"):
        load(drafter="lm", draft_bundle=tiny_bundle, drafter_device="cuda")


@pytest.mark.parametrize(
    ("text", "number"),
    [("3GB", 3 * 10**9), ("512MiB", 512 * 2**20), ("2e9", 2 * 10**9), ("1.5 g", 1_500_000_000), ("100", 100)],
)
def test_sizes_are_read_as_people_write_them(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "0", "3TB", "1.2.3GB", "1e999", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="a size must be a number of bytes above 0"):
        parse_bytes(text)


def test_passes_that_bind_anew_draft_the_same(tiny_drafting_bundle):
    """A device that copies what is bound needs its inputs bound for every pass."""
    bundle = Bundle(tiny_drafting_bundle)
    entry = bundle.manifest.drafter
    drafted = []
    for device in ("cpu", "elsewhere"):
        model = DraftModel(bundle.path(entry.graph), entry, capacity=64, threads=1)
        model.device = device
        generator = np.random.default_rng(0)
        for start in range(0, 9, 3):
            states = generator.standard_normal((3, entry.hidden_size)).astype(np.float32)
            rows = model.forward(
                states,
                generator.integers(0, 384, 3),
                np.arange(start, start + 3),
                num_scored=1,
                num_candidates=4,
            )
            model.cache.keep(range(3))
            drafted.append(rows.log_probabilities.copy())
    np.testing.assert_array_equal(drafted[:3], drafted[3:])
