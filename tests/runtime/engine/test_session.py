"""Sessions: what they report, and what fails while they are opened or run."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.engine import session
from dovetail_ort_runtime.errors import UnavailableError

HALF = 2  # bytes of a number in the cache of a native graph
CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:146 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, "
    "const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError] "
)
PLACE = " ; GPU=-1 ; hostname=vm ; file=/onnxruntime_src/cuda_execution_provider.cc ; line=355 ; expr=cudaSetDevice(); "


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
    assert target.cache_bytes == 2 * entry.num_layers * entry.num_kv_heads * entry.max_context * entry.head_size * HALF
    sizes = {file.path: file.num_bytes for file in model.manifest.files}
    assert target.weight_bytes == sum(size for path, size in sizes.items() if path.startswith(entry.graph))
    assert [report.name for report in load(drafter="lookup", bundle=tiny_drafting_bundle).sessions()] == ["target"]
    copy = load(drafter="lm", draft_bundle=tiny_drafting_bundle).sessions()
    assert [report.name for report in copy] == ["target", "drafter"]


def test_a_session_on_a_gpu_says_how_much_of_its_memory_is_in_use(monkeypatch, load, tiny_drafting_bundle):
    cpu = load(bundle=tiny_drafting_bundle)._decoder.target.session
    monkeypatch.setattr(session, "vram_in_use", lambda: 123)
    known = {"name": "drafter", "threads": 1, "weight_bytes": 2, "cache_bytes": 3}
    assert session.report_session(cpu, device="cuda", **known).vram_bytes == 123
    assert session.report_session(cpu, device="cpu", **known).vram_bytes is None


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            f"{CALL}{CALL}CUDA failure 100: no CUDA-capable device is detected{PLACE}\n\n",
            "CUDA cannot use the GPU: CUDA failure 100: no CUDA-capable device is detected; see",
        ),
        (
            f"{CALL}CUDA failure 2: out of memory{PLACE}",
            "weights, cache and a forward do not fit into memory: CUDA failure 2: out of memory; load with",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 "
            "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
            "Available memory of 7168 is smaller than requested bytes of 147456",
            "memory: Available memory of 7168 is smaller than requested bytes of 147456; load with",
        ),
    ],
)
def test_what_fails_on_a_device_is_reported_in_one_line(raised, message):
    """The texts are those of ONNX Runtime 1.31.1."""
    with pytest.raises(UnavailableError) as caught, session.device_errors():
        raise RuntimeError(raised)
    assert message in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_stay_as_they_are():
    with pytest.raises(KeyError, match="on purpose"), session.device_errors():
        raise KeyError("on purpose")


def test_a_session_whose_memory_is_used_up_while_loading_says_so(monkeypatch, tiny_cut_bundle):
    class Full(session.import_onnxruntime().InferenceSession):
        def __init__(self, *_, **__):
            raise RuntimeError(f"{CALL}CUDA failure 2: out of memory{PLACE}")

    monkeypatch.setattr(session.import_onnxruntime(), "InferenceSession", Full)
    with pytest.raises(UnavailableError, match="do not fit into memory: CUDA failure 2"):
        session.open_session(tiny_cut_bundle / "model.onnx", 1)
