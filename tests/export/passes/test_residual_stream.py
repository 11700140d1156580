"""Where the residual stream is in traced, fused and native graphs."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.lower_native import LowerNative
from dovetail_ort_export.passes.pack_products import PackGateUp, PackQkv
from dovetail_ort_export.passes.residual_stream import find_levels
from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES

FAMILIES = {
    "llama": {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 3},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}
FORMS = {
    "as traced": (),
    "packed": (PackQkv, PackGateUp),
    "fused": (FuseSkipNorm,),
    "native": (PackQkv, PackGateUp, FuseSkipNorm, LowerNative),
}


def names(graph):
    return [place.value().name for place in find_levels(graph)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_s_output_is_found_in_every_form_of_the_graph(family, form, skeleton):
    graph, weights = skeleton(family, **FAMILIES[family])
    BindWeights(PassContext(weights=weights))(graph)
    expected = names(graph)
    for graph_pass in FORMS[form]:
        graph = graph_pass()(graph).model
    found = names(graph)
    num_layers = FAMILIES[family].get("num_hidden_layers", 2)
    assert expected == ["/embed_tokens/Embedding_output_0", *(f"/layers.{i}/Add_1_output_0" for i in range(num_layers))]
    assert found[:-1] == expected[:-1]
    # Nothing else reads the last sum, so a native norm does not hand it out until it is asked to.
    assert found[-1].endswith("/Norm/sum" if form == "native" else expected[-1])


def test_a_sum_that_nothing_reads_is_handed_out_only_when_it_is_asked_for(bound):
    graph = bound("llama")
    for graph_pass in (PackQkv(), PackGateUp(), FuseSkipNorm(), LowerNative()):
        graph = graph_pass(graph).model
    last = find_levels(graph)[-1]
    assert len(last.node.outputs) == 1
    assert last.value() is last.node.outputs[1]
    assert last.value().name


def test_a_graph_without_hidden_states_has_no_levels(small_graph):
    graph = small_graph("y = Add(x, r)")
    with pytest.raises(ir.passes.PreconditionError, match="the graph has no output hidden_states"):
        find_levels(graph)


def test_a_stream_of_another_length_than_the_blocks_is_refused(bound):
    graph = bound("llama")
    states = next(value for value in graph.graph.outputs if value.name == HIDDEN_STATES)
    add = states.producer().inputs[0].producer()
    add.replace_input_with(0, add.inputs[1])  # the sum no longer reads the stream
    with pytest.raises(ir.passes.PreconditionError, match=r"2 values of the residual stream .* has 5"):
        find_levels(graph)
