"""Passes of the drafter and of first blocks on CUDA: where their nodes run, and what a pass asks of the device."""

from collections import Counter

import pytest

pytestmark = pytest.mark.long

CUDA = "CUDAExecutionProvider"

# Each pass waits twice for its stream: when its outputs have been copied, and when ONNX Runtime gives the stream back.
WAITS = {"wait cudaStreamSynchronize": 2}
# Drafted are states, token ids and log probabilities. Features, token ids, positions and length are read, behind a
# tree or without a graph for chains the bias, too; all of them lie in memory of numpy's, and are small.
DRAFTED = {"copy device pageable": 3, **WAITS}
# A block's attention with a bias is seven launches: lengths, rotation, two transpositions, two products, a softmax.
TREE_STEP = {"copy pageable device": 5, "kernel": 24, "product": 9, **DRAFTED}
# The last block's states are copied back; token ids, positions, length and bias are read.
FRONT_PASS = {"copy pageable device": 4, "copy device pageable": 1, "kernel": 14, "product": 6, **WAITS}


def counted(calls):
    """Number of calls by kind; copies by the two kinds of memory, and waits by what is waited for."""
    words = [call.split() for call in calls]
    kinds = [" ".join(parts[: {"copy": 3, "wait": 2}.get(parts[0], 1)]) for parts in words]
    return Counter(kind for kind in kinds if kind not in ("allocate", "release"))  # the arena's, when it grows


@pytest.mark.parametrize(("program", "bundle"), [("drafter_nodes", "drafting"), ("front_nodes", "tiny_cut_bundle")])
def test_every_node_is_on_cuda_and_none_copies_between_providers(program, bundle, on_stand_in, request):
    nodes = on_stand_in(program, request.getfixturevalue(bundle))
    assert list(nodes["assigned"]) == [CUDA]
    assert nodes["assigned"][CUDA] >= 15
    assert list(nodes["ran"]) == [CUDA]
    assert "GroupQueryAttention" in nodes["ran"][CUDA]
    assert not [name for name in nodes["ran"][CUDA] if name.startswith("Memcpy")]


@pytest.mark.parametrize("num_rows", [1, 8])
def test_a_draft_step_of_a_tree_has_as_many_launches_and_copies_as_stated(num_rows, drafting, on_stand_in):
    assert counted(on_stand_in("draft_pass", drafting, num_rows, "tree")) == TREE_STEP


@pytest.mark.parametrize("num_rows", [2, 8])
def test_a_pass_of_a_front_of_one_block_has_as_many_launches_and_copies_as_stated(
    num_rows, tiny_cut_bundle, on_stand_in
):
    assert counted(on_stand_in("front_pass", tiny_cut_bundle, num_rows)) == FRONT_PASS


def test_keys_and_values_are_written_where_they_lie(drafting, tiny_cut_bundle, on_stand_in):
    """ONNX Runtime copies the past where present is another buffer, as the third pass shows."""
    assert not counted(on_stand_in("draft_pass", drafting, 1, "chain"))["copy device device"]
    assert not counted(on_stand_in("front_pass", tiny_cut_bundle, 2))["copy device device"]
    assert counted(on_stand_in("pass_into_another_cache", drafting))["copy device device"]
