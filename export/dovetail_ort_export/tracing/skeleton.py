"""From a torch module to a skeleton graph: example values of the inputs that every graph has, and the tracer.

It knows no model: `target` and `drafter` give the module, and the names of inputs and outputs that only their graphs
have.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch

from dovetail_ort_export.tracing import operators
from dovetail_ort_export.tracing.axes import BATCH, Axes, Shape
from dovetail_ort_runtime.bundle.graph_names import (
    ATTENTION_BIAS,
    INPUT_IDS,
    PAST,
    POSITION_IDS,
    SEQUENCE_LENGTHS,
    TOTAL_LENGTH,
)

_EXAMPLE_ROWS: Final = 3
_EXAMPLE_SLOTS: Final = 8


def example_inputs(num_layers: int, num_kv_heads: int, head_size: int) -> dict[str, Any]:
    """Values for the inputs that every graph has, in their order: a few rows after a longer cache.

    Returns:
        Tensors by name; of the caches, under `past_key_values`, a list of a pair of keys and values for each block.
    """
    cache = (1, num_kv_heads, _EXAMPLE_SLOTS, head_size)
    return {
        INPUT_IDS: torch.zeros(1, _EXAMPLE_ROWS, dtype=torch.int64),
        POSITION_IDS: torch.arange(_EXAMPLE_ROWS)[None],
        ATTENTION_BIAS: torch.zeros(1, 1, _EXAMPLE_ROWS, _EXAMPLE_ROWS),
        SEQUENCE_LENGTHS: torch.tensor([_EXAMPLE_ROWS - 1], dtype=torch.int32),
        TOTAL_LENGTH: torch.tensor(_EXAMPLE_ROWS, dtype=torch.int32),
        PAST: [(torch.zeros(cache), torch.zeros(cache)) for _ in range(num_layers)],
    }


def traced(
    name: str,
    module: Any,
    arguments: tuple[Any, ...],
    *,
    inputs: Axes,
    outputs: Axes,
    widths: Mapping[str, Shape],
    cache: Shape,
) -> ir.Model:
    """The skeleton of a torch module, with the output shapes that the tracer leaves open.

    Args:
        name: name of the graph.
        module: torch module in evaluation mode, which returns a flat tuple.
        arguments: example values of the module's parameters.
        inputs: dynamic axes by the name of each input, in the order of `arguments`, with caches flattened.
        outputs: dynamic axes by the name of each output.
        widths: sizes after the batch, by the name of an output.
        cache: sizes after the batch of all other outputs.

    Returns:
        A graph whose weights are nodes that carry a name.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracer warns of every constant it meets and of its own successor.
        warnings.simplefilter("ignore")
        path = Path(folder) / "skeleton.onnx"
        torch.onnx.export(
            module,
            arguments,
            path,
            dynamo=False,
            opset_version=operators.OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**inputs, **outputs},
        )
        skeleton = ir.load(path)
    for output in skeleton.graph.outputs:
        output.shape = ir.Shape([BATCH, *widths.get(str(output.name), cache)])
    skeleton.graph.name = name
    return skeleton
