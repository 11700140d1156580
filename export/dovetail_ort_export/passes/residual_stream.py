"""The target's residual stream in a finished graph, found by its structure: native, portable or in floating point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes.editing import by_name, input_of, producer_of
from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES, is_present
from dovetail_ort_runtime.bundle.native_layout import NORM, NORM_PRODUCT

# Of each norm that may add first: the input that it adds to its first one, and the output that is the sum.
_ADDED_INPUTS: Final = {"SkipSimplifiedLayerNormalization": 1, NORM: 2, NORM_PRODUCT: 5}
_SUM_OUTPUTS: Final = {"SkipSimplifiedLayerNormalization": 3, NORM: 1, NORM_PRODUCT: 1}
_SUMS_OF_A_BLOCK: Final = 2  # after attention and after the MLP


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """An output of a node; a sum that nothing has read so far may not be there yet.

    Attributes:
        node: what computes it.
        output: its number among the node's outputs.
    """

    node: ir.Node
    output: int

    def value(self) -> ir.Value:
        """The output, which becomes one if it is not there."""
        if len(self.node.outputs) <= self.output:
            self.node.resize_outputs(self.output + 1)
        value = self.node.outputs[self.output]
        if not value.name:
            value.name = f"{self.node.name}/sum"
        return value


def find_levels(model: ir.Model) -> list[Place]:
    """Where the levels 0 to L are: the embedding, and what comes out of each block.

    The stream is followed from the final norm back to the embedding, sum by sum. The first of two that are added is the
    stream, the second is what attention or the MLP adds to it.

    Raises:
        PreconditionError: the graph has no hidden states, or no stream from the embedding with two sums a block leads
            to them.
    """
    states = by_name(model.graph.outputs).get(HIDDEN_STATES)
    if states is None:
        raise ir.passes.PreconditionError(f"the graph has no output {HIDDEN_STATES}")
    num_blocks = sum(is_present(str(value.name)) for value in model.graph.outputs) // 2
    places = list(_stream(producer_of(states)))
    if len(places) != _SUMS_OF_A_BLOCK * num_blocks + 1:
        raise ir.passes.PreconditionError(
            f"{len(places)} values of the residual stream are found from the embedding to the final norm, and a graph "
            f"of {num_blocks} blocks has {_SUMS_OF_A_BLOCK * num_blocks + 1}"
        )
    return places[::-_SUMS_OF_A_BLOCK]


def _stream(final_norm: ir.Node) -> Iterator[Place]:
    """The stream from what the final norm reads back to the embedding."""
    place = _read_sum(final_norm)
    while place is not None:
        yield place
        before = input_of(place.node, 0)
        source = before.producer()
        if source is None:
            return
        place = _sum_of(source)
        if place is None or len(source.outputs) <= place.output or source.outputs[place.output] is not before:
            index = before.index()
            assert index is not None
            yield Place(source, index)
            return


def _read_sum(norm: ir.Node) -> Place | None:
    """The sum that a norm reads, its own or that of an addition before it."""
    own = _sum_of(norm)
    if own is not None:
        return own
    source = input_of(norm, 0).producer()
    return None if source is None else _sum_of(source)


def _sum_of(node: ir.Node) -> Place | None:
    """Where a node hands out the sum that it computes; None if it adds nothing up."""
    if node.op_type == "Add":
        return Place(node, 0)
    added = _ADDED_INPUTS.get(node.op_type, len(node.inputs))
    if added >= len(node.inputs) or node.inputs[added] is None:
        return None
    return Place(node, _SUM_OUTPUTS[node.op_type])
