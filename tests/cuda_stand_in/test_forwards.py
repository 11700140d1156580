"""Forwards of the drafter and of first blocks on CUDA: where their nodes run, and what a forward asks of the device."""

from __future__ import annotations

from collections import Counter

import pytest

pytestmark = pytest.mark.long

CUDA = "CUDAExecutionProvider"

# A forward waits twice for its stream: when its outputs have been copied, and when ONNX Runtime gives the stream back.
WAITS = {"wait cudaStreamSynchronize": 2}
# A draft step reads features, token ids, positions and the length of the text, and gives features, token ids and log
# probabilities, all in page-locked memory. Where trees are drafted it reads the attention bias, too, which the decoder
# makes anew for each tree.
DRAFTED = {"copy pinned device": 4, "copy device pinned": 3, **WAITS}
# Attention with a bias: lengths, rotation, two transpositions, two products and a softmax; and the bias is cast.
TREE_STEP = {**DRAFTED, "copy pageable device": 1, "kernel": 24, "product": 9}
# Without one, flash attention: one row takes one launch, more take lengths and rotation before it. A long text is read
# in parts, which one more launch puts together.
CHAIN_STEP = {**DRAFTED, "kernel": 19, "product": 7}
CHAIN_STEP_OF_A_LONG_TEXT = {**CHAIN_STEP, "kernel": 20}
CHAIN_STEP_OF_8_ROWS = {**CHAIN_STEP, "kernel": 21}
# A front reads token ids, positions and the length, the bias where its graph has one, and gives the states of its
# last block.
VERIFIED = {"copy pinned device": 3, "copy device pinned": 1, **WAITS}
BIASED_FORWARD = {**VERIFIED, "copy pageable device": 1, "kernel": 14, "product": 6}
CHAIN_FORWARD = {**VERIFIED, "kernel": 11, "product": 4}


def counted(calls):
    """Number of calls by kind; copies by the two kinds of memory, and waits by what is waited for."""
    words = [call.split() for call in calls]
    kinds = [" ".join(parts[: {"copy": 3, "wait": 2}.get(parts[0], 1)]) for parts in words]
    return Counter(kind for kind in kinds if kind not in ("allocate", "release"))  # the arena's, when it grows


@pytest.mark.parametrize(("program", "bundle"), [("drafter_nodes", "drafting"), ("front_nodes", "tiny_cut_bundle")])
@pytest.mark.parametrize("kind", ["tree", "chain"])
def test_every_node_is_on_cuda_and_none_copies_between_providers(program, bundle, kind, on_stand_in, request):
    nodes = on_stand_in(program, request.getfixturevalue(bundle), kind)
    assert list(nodes["assigned"]) == [CUDA]
    assert nodes["assigned"][CUDA] > 10
    assert list(nodes["ran"]) == [CUDA]
    assert "GroupQueryAttention" in nodes["ran"][CUDA]
    assert not [name for name in nodes["ran"][CUDA] if name.startswith("Memcpy")]


@pytest.mark.parametrize(
    ("num_rows", "kind", "num_past", "stated"),
    [
        (1, "tree", 0, TREE_STEP),
        (8, "tree", 448, TREE_STEP),
        (1, "chain", 0, CHAIN_STEP),
        (1, "chain", 448, CHAIN_STEP_OF_A_LONG_TEXT),
        (8, "chain", 0, CHAIN_STEP_OF_8_ROWS),
    ],
)
def test_a_draft_step_has_the_stated_copies_launches_and_waits(num_rows, kind, num_past, stated, drafting, on_stand_in):
    assert counted(on_stand_in("draft_forward", drafting, num_rows, kind, num_past)) == stated


@pytest.mark.parametrize("num_rows", [2, 8])
def test_a_forward_of_a_front_of_one_block_has_the_stated_copies_launches_and_waits(
    num_rows, tiny_cut_bundle, on_stand_in
):
    assert counted(on_stand_in("front_forward", tiny_cut_bundle, num_rows, "tree")) == BIASED_FORWARD
    assert counted(on_stand_in("front_forward", tiny_cut_bundle, num_rows, "chain")) == CHAIN_FORWARD


def test_keys_and_values_are_written_where_they_lie(drafting, tiny_cut_bundle, on_stand_in):
    """ONNX Runtime copies the past where present is another buffer, as the last forward shows."""
    for kind in ("tree", "chain"):
        assert not counted(on_stand_in("draft_forward", drafting, 1, kind))["copy device device"]
        assert not counted(on_stand_in("front_forward", tiny_cut_bundle, 2, kind))["copy device device"]
    assert counted(on_stand_in("forward_into_another_cache", drafting))["copy device device"]
