"""Products and embedding with weights in blocks."""

from __future__ import annotations

import pytest

from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.pack_products import PackGateUp
from dovetail_ort_runtime.errors import InputError, SourceError


def test_int8_lowering_replaces_products_and_embedding_and_nothing_else(bound, operators):
    graph = bound("llama")
    before = operators(graph)
    assert LowerInt8Blocks()(graph).modified
    after = operators(graph)
    assert after["MatMulNBits"] == before["Linear"]
    assert after["GatherBlockQuantized"] == before["Embedding"] == 1
    changed = {"MatMulNBits", "GatherBlockQuantized", "Linear", "Embedding", "Reshape"}
    assert {op: count for op, count in after.items() if op not in changed} == {
        op: count for op, count in before.items() if op not in changed
    }


def test_a_lowered_graph_is_left_alone_by_int8_lowering(bound, assert_leaves_alone):
    graph = bound("llama")
    LowerInt8Blocks()(graph)
    assert_leaves_alone(LowerInt8Blocks(), graph)


def test_a_width_that_blocks_do_not_divide_is_refused_with_the_way_out(bound):
    message = "down_proj.weight must be a multiple of 32 for INT8, got 48; export with --precision fp32"
    with pytest.raises(SourceError, match=message):
        LowerInt8Blocks()(bound("llama", intermediate_size=48))


@pytest.mark.parametrize("block_size", [16, 64])
def test_every_product_and_the_embedding_have_blocks_of_the_size_asked_for(bound, block_size):
    graph = bound("llama")
    LowerInt8Blocks(block_size=block_size)(graph)
    lowered = [node for node in graph.graph if node.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    assert {node.attributes["block_size"].as_int() for node in lowered} == {block_size}
    assert {node.attributes["bits"].as_int() for node in lowered} == {8}


def test_only_the_products_of_the_mlp_get_four_bits(bound):
    graph = bound("llama")
    PackGateUp()(graph)
    LowerInt8Blocks(mlp_bits=4)(graph)
    lowered = [node for node in graph.graph if node.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    names = {bits: [node.name for node in lowered if node.attributes["bits"].as_int() == bits] for bits in (4, 8)}
    assert len(names[4]) == 2 * 2
    assert all("/mlp/" in name or ".mlp." in name for name in names[4])
    assert len(names[8]) == 2 * 4 + 2  # query, key, value and output in each block; head and embedding
    assert not any("mlp" in name for name in names[8])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 48}, "block_size must be one of 16, 32, 64, 128, got 48"),
        ({"block_size": "32"}, "block_size must be one of 16, 32, 64, 128, got '32'"),
        ({"block_size": 32.0}, "block_size must be one of 16, 32, 64, 128, got 32.0"),
        ({"mlp_bits": 3}, "mlp_bits must be one of 4, 8, got 3"),
    ],
)
def test_int8_lowering_refuses_what_no_kernel_reads(options, message):
    with pytest.raises(InputError, match=message):
        LowerInt8Blocks(**options)
