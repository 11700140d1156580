"""Native graphs: which operator takes the place of what, and what a graph may not hold any more."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.lower_native import LowerNative
from dovetail_ort_export.passes.pack_products import PackGateUp, PackQkv
from dovetail_ort_export.passes.quantize_cache import QuantizeCache
from dovetail_ort_export.passes.score_rows import ScoreRows
from dovetail_ort_export.quantization.nibbles import nibble_scales, pack_nibbles, pack_steps
from dovetail_ort_export.quantization.packed_weights import pack_codes, pack_factors
from dovetail_ort_export.quantization.scales import output_scales
from dovetail_ort_runtime.errors import InputError, SourceError

FAMILIES = {
    "llama": ("llama", {}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3, biases": ("qwen3", {"head_dim": 32, "attention_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
}


@pytest.fixture(scope="module")
def prepared(tiny_model):
    """`prepared(family, ...)`: a graph up to the lowering, and its weights."""
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target

    def make(family, **settings):
        model = tiny_model(family, **settings)
        weights = Weights(model, max_context=64)
        graph = trace_target(model)
        for graph_pass in (
            BindWeights(PassContext(weights=weights)),
            ScoreRows(),
            PackQkv(),
            PackGateUp(),
            FuseSkipNorm(),
        ):
            graph = graph_pass(graph).model
        return graph, weights

    return make


@pytest.fixture(scope="module")
def native(prepared):
    def make(family, **settings):
        graph, weights = prepared(family, **settings)
        assert LowerNative()(graph).modified
        return graph, weights

    return make


def operators(model):
    return Counter(node.op_type for node in model.graph)


def find(model, op_type):
    return [node for node in model.graph if node.op_type == op_type]


def value_of(node, index):
    return node.inputs[index].const_value.numpy()


def message(error):
    return str(error.value.__cause__ or error.value)


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
def test_a_target_has_native_operators_and_one_choice_of_rows(native, case):
    graph, _ = native(case[0], **case[1])
    expected = {"Embedding": 1, "NormProduct": 4, "Attention": 2, "GatedProduct": 2, "Norm": 1, "Gather": 1}
    assert operators(graph) == {**expected, "Product": 2 + 1}  # two outputs of attention, and the head
    assert {node.domain for node in graph.graph if node.op_type != "Gather"} == {"dovetail.native"}


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("group", [64, 0])
def test_every_product_reads_the_packed_weight_its_scales_bias_and_factors(prepared, case, group):
    family, settings = case
    graph, weights = prepared(family, **settings)
    LowerNative(group=group)(graph)
    prefix = "model.layers.1"
    parts = {
        "self_attn.qkv_proj": [f"{prefix}.self_attn.{letter}_proj" for letter in "qkv"],
        "self_attn.o_proj": [f"{prefix}.self_attn.o_proj"],
        "mlp.gate_up_proj": [f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"],
        "mlp.down_proj": [f"{prefix}.mlp.down_proj"],
    }
    for path, sources in parts.items():
        weight = np.concatenate([weights[f"{source}.weight"] for source in sources])
        codes = graph.graph.initializers[f"{prefix}.{path}.weight_packed"]
        (use,) = codes.uses()
        first = 2 if use.node.op_type == "NormProduct" else 1
        np.testing.assert_array_equal(value_of(use.node, first), pack_codes(weight, group=group))
        np.testing.assert_array_equal(value_of(use.node, first + 1), output_scales(weight))
        assert use.node.attributes["inputs"].as_int() == weight.shape[1]
        assert use.node.attributes["group"].as_int() == group
        if group:
            np.testing.assert_array_equal(value_of(use.node, 6 if first == 2 else 4), pack_factors(weight))
        else:
            assert not any("factors" in str(value.name) for value in use.node.inputs if value is not None)
        bias = use.node.inputs[first + 2] if len(use.node.inputs) > first + 2 else None
        if f"{sources[0]}.bias" in weights:
            expected = np.concatenate([weights[f"{source}.bias"] for source in sources])
            np.testing.assert_array_equal(bias.const_value.numpy(), expected)
        else:
            assert bias is None


@pytest.mark.parametrize("logits_bits", [8, 4])
def test_products_in_4_bits_read_nibbles_and_steps(prepared, logits_bits):
    graph, weights = prepared("llama")
    LowerNative(bits=4, logits_bits=logits_bits)(graph)
    weight = weights["model.layers.1.self_attn.o_proj.weight"]
    (use,) = graph.graph.initializers["model.layers.1.self_attn.o_proj.weight_nibbles"].uses()
    np.testing.assert_array_equal(value_of(use.node, 1), pack_nibbles(weight))
    np.testing.assert_array_equal(value_of(use.node, 2), nibble_scales(weight))
    np.testing.assert_array_equal(value_of(use.node, 4), pack_steps(weight))
    for node in graph.graph:
        if node.op_type in ("Product", "NormProduct", "GatedProduct", "Embedding"):
            is_8_bit = node.op_type == "Embedding" or (node.outputs[0].name == "logits" and logits_bits == 8)
            found = [node.attributes[name].as_int() for name in ("bits", "group")]
            assert found == ([8, 64] if is_8_bit else [4, 32]), node.name
            assert node.op_type == "Embedding" or is_8_bit or node.attributes["block"].as_int() == 32


@pytest.mark.parametrize("name", ["bits", "logits_bits"])
def test_weights_of_other_bits_are_refused(name):
    with pytest.raises(InputError, match=f"{name} must be 8 or 4, got 2"):
        LowerNative(**{name: 2})


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
def test_what_becomes_scores_is_quantised_in_finer_blocks(native, case):
    graph, _ = native(case[0], **case[1])
    blocks = {"NormProduct": [32, 64, 32, 64], "GatedProduct": [64, 64], "Product": [64, 64, 32]}
    for operator, expected in blocks.items():
        assert [node.attributes["block"].as_int() for node in find(graph, operator)] == expected


def test_a_sum_goes_on_from_the_norm_that_adds_it(native):
    graph, _ = native("llama")
    normed = find(graph, "NormProduct")
    assert [len(node.outputs) for node in normed] == [1, 2, 2, 2]  # the first norm of all reads no residual
    for node, later in pairwise(normed[1:]):
        assert later.inputs[0] is node.outputs[1]
    (last,) = find(graph, "Norm")
    assert last.inputs[0] is normed[-1].outputs[1]
    assert last.inputs[2].producer().op_type == "GatedProduct"
    assert len(last.outputs) == 1
    assert last.outputs[0].name == "hidden_states"


def test_epsilon_and_scale_are_the_models(native):
    graph, _ = native("llama", rms_norm_eps=1e-3)
    for node in (*find(graph, "NormProduct"), *find(graph, "Norm")):
        assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)
    for node in find(graph, "Attention"):
        assert node.attributes["scale"].as_float() == 0.25  # 1 / sqrt(16)
        assert node.attributes["epsilon"].as_float() == 0


def test_norms_by_head_are_attentions_own(native):
    graph, weights = native("qwen3", head_dim=32, rms_norm_eps=1e-3)
    for layer, node in enumerate(find(graph, "Attention")):
        assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)
        for index, part in ((10, "q_norm"), (11, "k_norm")):
            np.testing.assert_array_equal(
                value_of(node, index), weights[f"model.layers.{layer}.self_attn.{part}.weight"]
            )


@pytest.mark.parametrize(("cache", "dtype"), [("fp16", ir.DataType.FLOAT16), ("fp32", ir.DataType.FLOAT)])
def test_keys_and_values_have_the_type_that_was_asked_for(prepared, cache, dtype):
    graph, _ = prepared("llama")
    LowerNative(cache=cache)(graph)
    caches = [value for value in (*graph.graph.inputs, *graph.graph.outputs) if "." in value.name]
    assert len(caches) == 8
    assert {value.dtype for value in caches} == {dtype}


def test_a_cache_of_another_type_is_refused():
    with pytest.raises(InputError, match="cache must be one of fp16, fp32, got 'int8'"):
        LowerNative(cache="int8")


def test_groups_of_another_size_are_refused():
    with pytest.raises(InputError, match="group must be 64 or 0, got 32"):
        LowerNative(group=32)


def test_a_native_graph_is_left_alone(native):
    graph, _ = native("qwen3", head_dim=32)
    before = [str(node) for node in graph.graph]
    assert not LowerNative()(graph).modified
    assert [str(node) for node in graph.graph] == before


@pytest.mark.parametrize("size", [24, 272])
def test_a_head_size_that_no_kernel_takes_names_the_other_format(prepared, size):
    graph, _ = prepared("qwen3", head_dim=size)
    with pytest.raises(SourceError) as error:
        LowerNative()(graph)
    assert str(error.value).endswith(f"got {size}; export with --format portable")


def test_an_int8_cache_is_refused(prepared):
    graph, weights = prepared("llama")
    maxima = {f"{block}.{part}": np.ones(32, dtype=np.float32) for block in (0, 1) for part in ("key", "value")}
    QuantizeCache(PassContext(weights=weights, cache_maxima=maxima))(graph)
    with pytest.raises(ir.passes.PreconditionError) as error:
        LowerNative()(graph)
    assert "leave quantize-cache out" in message(error)


def test_norms_of_queries_and_keys_with_different_epsilons_are_refused(prepared):
    graph, _ = prepared("qwen3", head_dim=32)
    norm = next(
        node for node in find(graph, "SimplifiedLayerNormalization") if node.inputs[1].name.endswith("k_norm.weight")
    )
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)
    with pytest.raises(ir.passes.PreconditionError) as error:
        LowerNative()(graph)
    assert "norms queries and keys with different epsilons" in message(error)


def test_any_operator_on_numbers_that_is_not_native_breaks_the_promise(native):
    graph, _ = native("llama")
    head = next(node for node in graph.graph if node.outputs[0].name == "logits")
    relu = ir.node("Relu", [head.inputs[0]], name="mine")
    graph.graph.insert_before(head, relu)
    head.replace_input_with(0, relu.outputs[0])
    with pytest.raises(ir.passes.PostconditionError) as error:
        LowerNative()(graph)
    assert "Relu mine is left, and its bits depend on the processor" in message(error)


def small_graph(body):
    """A graph of input x, a norm's weight n (64,) and weights w and w2 (64, 64)."""
    ones, square = ",".join("1" * 64), ",".join("1" * 4096)
    return ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1, "dovetail": 1]> '
        "graph (float[1, 2, 64] x, int64[1, 2] position_ids) => (float[1, 2, 64] y, float[1, 2, 64] z) "
        f"<float[64] n = {{{ones}}}, float[64, 64] w = {{{square}}}, float[64, 64] w2 = {{{square}}}> {{ {body} }}"
    )


NORM = "SimplifiedLayerNormalization <axis = -1, epsilon = 0.001>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # Two products read the norm: it is computed once.
        (f"t = {NORM}(x, n)  y = dovetail.Linear(t, w)  z = dovetail.Linear(t, w2)", {"Norm": 1, "Product": 2}),
        # The norm is an output.
        (f"y = {NORM}(x, n)  z = dovetail.Linear(y, w)", {"Norm": 1, "Product": 1}),
        # What is added is no bias.
        ("t = dovetail.Linear(x, w)  y = Add(t, x)  z = dovetail.Linear(y, w2)", {"Product": 2, "Add": 1}),
        # Without the bias the product is read as well.
        ("y = dovetail.Linear(x, w)  z = Add(y, n)", {"Product": 1, "Add": 1}),
        # Gate and up are read by something else, too.
        (
            "t = dovetail.Linear(x, w)  g, u = Split <axis = -1, num_outputs = 2>(t)  s = Sigmoid(g)  m = Mul(g, s)  "
            "p = Mul(m, u)  y = dovetail.Linear(p, w2)  z = Relu(p)",
            {"Product": 2, "Split": 1, "Sigmoid": 1, "Mul": 2, "Relu": 1},
        ),
        # Up comes first.
        (
            "t = dovetail.Linear(x, w)  u, g = Split <axis = -1, num_outputs = 2>(t)  s = Sigmoid(g)  m = Mul(g, s)  "
            "p = Mul(m, u)  y = dovetail.Linear(p, w2)  z = Relu(x)",
            {"Product": 2, "Split": 1, "Sigmoid": 1, "Mul": 2, "Relu": 1},
        ),
    ],
)
def test_only_what_one_product_alone_reads_goes_into_it(body, expected):
    graph = small_graph(body)
    assert LowerNative()(graph).modified
    assert operators(graph) == expected
