"""Where the time of a forward goes: the sums, the bytes, and the trace."""

from __future__ import annotations

import json

import onnx
import pytest

from dovetail_ort.cli.main import main
from dovetail_ort_export.laboratory import profile as profiling
from dovetail_ort_export.laboratory.node_costs import NodeBytes, node_costs, read_runs
from dovetail_ort_export.laboratory.profile import ForwardProfile, Share, profile_graph
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError

LAYERS, HIDDEN, HEAD_SIZE, HKV, INTERMEDIATE, VOCABULARY = 2, 64, 16, 2, 128, 384


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few rounds, and a bandwidth that is not measured."""
    monkeypatch.setattr(profiling, "_ROUNDS", 3)
    monkeypatch.setattr(profiling, "measured_read_bandwidth", lambda threads: 1e9)


def test_operators_and_blocks_are_two_views_of_the_same_nodes(tiny_bundle):
    (one,) = profile_graph(Bundle(tiny_bundle), rows=(3,), num_past=20).forwards
    assert sum(share.num_nodes for share in one.operators) == sum(share.num_nodes for share in one.blocks)
    assert sum(share.kernel_ms for share in one.operators) == pytest.approx(sum(b.kernel_ms for b in one.blocks))
    assert sum(share.bytes_read for share in one.operators) == sum(share.bytes_read for share in one.blocks)
    assert [share.name for share in one.blocks] == ["block 0", "block 1", "ends"]


def test_the_overhead_is_what_neither_products_nor_attention_take():
    def share(name, kernel_ms):
        return Share(name=name, num_nodes=1, kernel_ms=kernel_ms, bytes_read=0)

    operators = (share("NormProduct", 5.0), share("Attention", 2.0), share("TopK", 1.0))
    one = ForwardProfile(rows=1, forward_ms=10.0, profiled_ms=12.0, operators=operators, blocks=())
    assert one.overhead == pytest.approx(0.3)
    slow = ForwardProfile(rows=1, forward_ms=6.0, profiled_ms=12.0, operators=operators, blocks=())
    assert slow.overhead == 0  # the profiler made the kernels longer than a forward without it


def test_the_kernels_of_a_run_are_those_that_begin_before_its_end(tmp_path):
    def event(name, start, duration, **more):
        return {"name": name, "ts": start, "dur": duration, "cat": "Session", **more}

    def kernel(name, start, duration):
        return event(f"{name}_kernel_time", start, duration, cat="Node", args={"op_name": "MatMul"})

    events = [event("model_run", 0, 10), kernel("a", 1, 2), kernel("b", 4, 3), event("model_run", 20, 10)]
    events += [kernel("a", 21, 4), kernel("b", 26, 3), event("fence", 27, 1)]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps(events[::-1]))
    runs = read_runs(trace)
    assert [[one["name"] for one in run] for run in runs] == [["a_kernel_time", "b_kernel_time"]] * 2
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "graph.onnx")
    costs = node_costs(runs, NodeBytes(tmp_path / "graph.onnx"), rows=1, num_past=0)
    assert [cost.kernel_ms for cost in costs] == [0.003, 0.003]  # microseconds, the median of two runs


def test_bytes_of_a_portable_graph_are_those_of_the_weights_and_of_the_cache(tiny_bundle_portable):
    rows, past = 3, 20
    (one,) = profile_graph(Bundle(tiny_bundle_portable), rows=(rows,), num_past=past).forwards
    read = {share.name: share.bytes_read for share in one.operators}
    outputs = LAYERS * (HIDDEN + 2 * HKV * HEAD_SIZE + HIDDEN + 2 * INTERMEDIATE) + VOCABULARY
    products = outputs * HIDDEN + LAYERS * HIDDEN * INTERMEDIATE
    assert read["MatMulNBits"] == products + products // 32 * 4  # a byte a weight, a float32 scale a block
    assert read["GroupQueryAttention"] == LAYERS * 2 * HKV * HEAD_SIZE * 4 * (past + rows)
    assert read["GatherBlockQuantized"] == rows * HIDDEN


def test_bytes_of_a_native_graph_are_those_of_the_weights_and_of_the_cache(tiny_bundle):
    rows, past = 3, 20
    (one,) = profile_graph(Bundle(tiny_bundle), rows=(rows,), num_past=past).forwards
    read = {share.name: share.bytes_read for share in one.operators}
    scales_and_norm, hidden = 4, HIDDEN + HIDDEN // 64 * 2
    normed = LAYERS * (HIDDEN + 2 * HKV * HEAD_SIZE + 2 * INTERMEDIATE)
    # A byte a weight, two a group of 64, a scale an output, a factor of the norm an input.
    expected = normed * (hidden + scales_and_norm) + 2 * LAYERS * HIDDEN * scales_and_norm
    head = VOCABULARY * (hidden + scales_and_norm) + HIDDEN * scales_and_norm
    assert read["NormProduct"] in (expected, expected + head)
    assert read["GatedProduct"] == LAYERS * HIDDEN * (INTERMEDIATE + INTERMEDIATE // 64 * 2 + scales_and_norm)
    assert read["Attention"] == LAYERS * 2 * HKV * HEAD_SIZE * 2 * (past + rows)  # in half precision
    assert read["Embedding"] == rows * hidden


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_bundle_portable"])
def test_a_forward_reads_what_its_nodes_read(name, request):
    rows, past = 3, 20
    bundle = Bundle(request.getfixturevalue(name))
    (one,) = profile_graph(bundle, rows=(rows,), num_past=past).forwards
    nodes = NodeBytes(bundle.path(bundle.manifest.target.graph))
    read = nodes.read_in_forward(rows, past)
    # Norms may be fused under names that the file lacks; other constants are a few numbers a node.
    norms = (2 * LAYERS + 1) * HIDDEN * 4
    assert one.bytes_read <= read <= one.bytes_read + norms + 100
    item_bytes = {"tiny_bundle": 2, "tiny_bundle_portable": 4}[name]
    assert nodes.read_in_forward(rows, past + 10) - read == LAYERS * 2 * HKV * HEAD_SIZE * item_bytes * 10


def test_the_drafter_has_a_profile_too(tiny_drafting_bundle):
    found = profile_graph(Bundle(tiny_drafting_bundle), "drafter", rows=(1, 4), num_past=70)
    assert [one.rows for one in found.forwards] == [1, 4]
    assert {"TopK", "Attention"} <= {share.name for share in found.forwards[0].operators}


def test_the_trace_is_one_that_perfetto_reads(tiny_bundle, tmp_path):
    trace = tmp_path / "trace.json"
    profile_graph(Bundle(tiny_bundle), rows=(1,), num_past=0, trace=trace)
    events = json.loads(trace.read_text())
    assert {event["ph"] for event in events} == {"X"}
    assert all({"name", "ts", "dur", "pid", "tid", "cat"} <= set(event) for event in events)


def test_the_command_prints_both_tables_and_json(tiny_bundle, capsys):
    assert main(["graph", "profile", str(tiny_bundle), "--tokens", "1,2", "--past", "16"]) == 0
    page = capsys.readouterr().out
    assert "1 row:" in page
    assert "2 rows:" in page
    assert page.count("block 1 ") == page.count("between kernels") == 2
    assert main(["graph", "profile", str(tiny_bundle), "--tokens", "2", "--past", "16", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["forwards"]
    assert one["bytes_read"] == sum(share["bytes_read"] for share in one["operators"])
    assert one["bytes_per_second"] == pytest.approx(one["bytes_read"] / one["forward_ms"] * 1e3)


@pytest.mark.parametrize(
    ("rows", "past", "message"),
    [
        ((0,), 0, "the rows of a profile must be 1 or more, got 0"),
        ((), 0, "the rows of a profile must be 1 or more, got none"),
        ((1,), -1, "the tokens of context of a profile must be 0 or more, got -1"),
        ((65,), 0, "must have at most 64 rows, got 65"),
        ((1,), 511, "must fit into the bundle's 512 tokens, got 511 and 1"),
    ],
)
def test_sizes_that_the_graph_has_no_room_for_are_refused(rows, past, message, tiny_bundle):
    with pytest.raises(InputError, match=message):
        profile_graph(Bundle(tiny_bundle), rows=rows, num_past=past)


def test_a_profile_of_a_drafter_needs_one(tiny_bundle, capsys):
    assert main(["graph", "profile", str(tiny_bundle), "--graph", "drafter"]) == 2
    assert "has no drafter" in capsys.readouterr().err
    assert main(["graph", "profile", str(tiny_bundle), "--tokens", "1,x"]) == 2
    assert "must be numbers such as 1,6, got '1,x'" in capsys.readouterr().err
