"""The graph of a tiny Llama as a whole: its size, its operators, its names, its weights."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest

INPUTS = ["input_ids", "position_ids", "attention_bias", "seqlens_k", "total_sequence_length", "scored_rows"]
NATIVE_INPUTS = ["input_ids", "position_ids", "lengths", "sequence_ids", "slots", "ancestors", "scored_rows"]


@pytest.fixture(scope="module", params=["native", "portable", "fp32"])
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def build(tiny_model):
    """`build(number_format, ...)`: the exported graph of a tiny Llama, its weights inside."""
    import onnx_ir as ir

    from dovetail_ort_export.passes.context import PassContext
    from dovetail_ort_export.pipeline import apply_recipe
    from dovetail_ort_export.recipe import built_in_recipe
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target

    def make(precision, **settings):
        model = tiny_model("llama", **settings)
        weights = Weights(model, max_context=512)
        context = PassContext(weights=weights)
        return ir.to_proto(apply_recipe(trace_target(model), built_in_recipe(precision), context))

    return make


@pytest.fixture(scope="module")
def graph(build, precision):
    return build(precision)


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


def attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def dimensions(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_a_llama_block_has_at_most_16_nodes_and_five_native_ones(build, precision):
    two = operators(build(precision, num_hidden_layers=2))
    three = operators(build(precision, num_hidden_layers=3))
    assert two <= three
    if precision == "native":
        assert three - two == {"NormProduct": 2, "Attention": 1, "Product": 1, "GatedProduct": 1}
    assert 5 <= (three - two).total() <= 16


def test_attention_is_one_operator_a_block(graph, precision):
    assert operators(graph)["Attention" if precision == "native" else "GroupQueryAttention"] == 2
    assert not {"Softmax", "RotaryEmbedding", "Cos", "Sin", "Concat", "Expand"} & set(operators(graph))


def test_no_placeholder_of_the_tracer_is_left(graph, precision):
    own = "dovetail.native" if precision == "native" else "com.microsoft"
    assert {node.domain for node in graph.graph.node} <= {"", own}


def test_the_operator_sets_are_those_of_the_operators_that_it_has(graph, precision):
    expected = {"": 18, "com.microsoft": 1} | ({"dovetail.native": 1} if precision == "native" else {})
    assert {opset.domain: opset.version for opset in graph.opset_import} == expected


def test_the_inputs_are_those_of_the_bundle_format(graph, precision):
    cache = [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    inputs = NATIVE_INPUTS if precision == "native" else INPUTS
    assert [value.name for value in graph.graph.input] == inputs + cache


def test_the_outputs_are_those_of_the_bundle_format(graph):
    cache = [f"present.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert [value.name for value in graph.graph.output] == ["logits", "hidden_states", *cache]


def test_the_outputs_state_their_shapes(graph, precision):
    shapes = {value.name: dimensions(value) for value in graph.graph.output}
    assert shapes["logits"] == ["batch_size", "num_scored_rows", 384]
    assert shapes["hidden_states"] == ["batch_size", "sequence_length", 64]
    sequences = "num_sequences" if precision == "native" else "batch_size"
    assert shapes["present.1.value"] == [sequences, 2, "max_sequence_length", 16]


def test_the_inputs_of_a_native_graph_leave_rows_sequences_and_slots_open(build):
    shapes = {value.name: dimensions(value) for value in build("native").graph.input}
    assert shapes["sequence_ids"] == shapes["slots"] == ["sequence_length"]
    assert shapes["lengths"] == ["num_sequences"]
    assert shapes["ancestors"] == ["sequence_length", "max_ancestors"]
    assert shapes["past_key_values.0.key"] == ["num_sequences", 2, "cache_blocks", 16, 64]
    assert shapes["past_key_values.0.value"] == ["num_sequences", 2, "max_sequence_length", 16]


@pytest.mark.parametrize("precision", ["portable", "fp32"])
def test_the_inputs_of_a_portable_graph_leave_rows_and_lengths_open(build, precision):
    shapes = {value.name: dimensions(value) for value in build(precision).graph.input}
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch_size", "sequence_length"]
    assert shapes["attention_bias"] == ["batch_size", 1, "sequence_length", "total_sequence_length"]
    assert shapes["seqlens_k"] == ["batch_size"]
    assert shapes["total_sequence_length"] == []
    assert shapes["scored_rows"] == ["num_scored_rows"]
    assert shapes["past_key_values.0.key"] == ["batch_size", 2, "max_sequence_length", 16]


def test_every_int8_product_is_of_the_kind_whose_rows_stand_alone(build):
    products = [node for node in build("portable").graph.node if "MatMul" in node.op_type or node.op_type == "Gemm"]
    assert {node.op_type for node in products} == {"MatMulNBits"}
    assert len(products) >= 2 * 4 + 1  # four a block and the head
    for node in products:
        found = attributes(node)
        assert (found["bits"], found["block_size"], found["accuracy_level"]) == (8, 32, 4)


def test_a_native_product_has_groups_and_blocks_of_64_and_what_becomes_scores_blocks_of_32(build):
    nodes = build("native").graph.node
    products = [node for node in nodes if "Product" in node.op_type]
    become_scores = {"logits", *(node.input[0] for node in nodes if node.op_type == "Attention")}
    assert len(products) == 2 * 4 + 1  # four a block and the head
    for node in products:
        found = attributes(node)
        assert (found["bits"], found["group"]) == (8, 64)
        assert found["block"] == (64 if become_scores.isdisjoint(node.output) else 32)


@pytest.mark.parametrize("tied", [True, False])
def test_a_native_graph_holds_every_weight_once_packed(build, tied):
    model = build("native", tie_word_embeddings=tied)
    embedding = next(node for node in model.graph.node if node.op_type == "Embedding")
    head = next(node for node in model.graph.node if "logits" in node.output)
    assert (embedding.input[1:3] == head.input[1:3]) == tied
    # All widths of the tiny model are multiples of 64 and all outputs of 32: nothing is filled up.
    assert elements(model)[onnx.TensorProto.UINT8] == num_weights(model, untied=not tied)
    assert elements(model)[onnx.TensorProto.FLOAT16] == num_weights(model, untied=not tied) // 64


def test_a_tied_head_and_the_embedding_read_one_int8_weight(build):
    model = build("portable")
    gather = next(node for node in model.graph.node if node.op_type == "GatherBlockQuantized")
    head = next(node for node in model.graph.node if "logits" in node.output)
    assert head.op_type == "MatMulNBits"
    assert gather.input[0] == head.input[1]
    assert elements(model)[onnx.TensorProto.UINT8] == num_weights(model, untied=False)


def test_an_untied_head_has_an_int8_weight_of_its_own(build):
    model = build("portable", tie_word_embeddings=False)
    assert elements(model)[onnx.TensorProto.UINT8] == num_weights(model, untied=True)


def test_no_float_copy_of_an_int8_weight_is_left(build):
    # Scales, one for 32 weights, norms and the rotary caches: nothing as large as the smallest product.
    model = build("portable")
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    rotary, norms = 2 * 512 * 8, 5 * 64
    assert sum(size(tensor) for tensor in floats) == num_weights(model, untied=False) // 32 + rotary + norms


def test_a_tied_head_and_the_embedding_read_one_fp32_weight(build):
    model = build("fp32")
    rotary, norms = 2 * 512 * 8, 5 * 64
    assert elements(model)[onnx.TensorProto.FLOAT] == num_weights(model, untied=False) + rotary + norms


def test_every_initializer_is_read(graph):
    read = {name for node in graph.graph.node for name in node.input}
    assert {tensor.name for tensor in graph.graph.initializer} <= read


def size(tensor):
    count = 1
    for width in tensor.dims:
        count *= width
    return count


def elements(model):
    """Number of initializer elements by type."""
    count = Counter()
    for tensor in model.graph.initializer:
        count[tensor.data_type] += size(tensor)
    return count


def num_weights(model, *, untied):
    """Weights of all products and the embedding: E = 64, 4 and 2 heads of 16, an MLP of 128, V = 384, L = 2."""
    block = 64 * (4 + 2 + 2) * 16 + 64 * 64 + 3 * 64 * 128
    return 2 * block + (2 if untied else 1) * 64 * 384
