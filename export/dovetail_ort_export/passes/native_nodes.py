"""Nodes of the package's own operators, made and put into the place of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN


def native_node(
    op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], num_outputs: int = 1
) -> ir.Node:
    """A node whose optional inputs that are not connected are left out at its end."""
    last = max(index for index, value in enumerate(inputs) if value is not None)
    return ir.node(op_type, inputs[: last + 1], attributes, domain=OPERATOR_DOMAIN, num_outputs=num_outputs)


def replace(model: ir.Model, old: Sequence[ir.Node], new: ir.Node, values: Sequence[ir.Value]) -> None:
    """Put `new` into the place of the last of `old`; its outputs take the place, name and type of `values`."""
    name = str(old[-1].name)
    new.name = f"{name.rpartition('/')[0] or name}/{new.op_type}"
    ir.convenience.replace_nodes_and_values(model.graph, old[-1], old, [new], values, new.outputs)
    RemoveUnusedNodesPass()(model)  # what they read may now have one reader
