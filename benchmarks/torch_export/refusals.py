"""Ways into `torch.export` that it refuses, and what it says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, Final
from unittest import mock

import onnxscript
import torch
from torch import Tensor

from benchmarks.torch_export import symbolic_operators
from dovetail_ort_export.tracing import operators, target
from dovetail_ort_export.tracing.axes import Axes


def refusals(model: Any) -> dict[str, str]:
    """What each attempt says, by what it does; later attempts have the fakes that the first one lacks.

    Raises:
        RuntimeError: one of them works now.
    """
    return {name: _refusal(name, attempt, model) for name, attempt in _ATTEMPTS.items()}


def _refusal(name: str, attempt: Callable[[Any], None], model: Any) -> str:
    """The line of an attempt's error that says what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt(model)
    except Exception as error:
        lines = [re.sub(r"\x1b\[\d*m", "", line) for line in str(error).splitlines()]
        # The ONNX stage puts advice first and the causes, the innermost one first, below.
        return next((line for line in lines if line.startswith("<class")), lines[0])
    raise RuntimeError(f"torch.export used to refuse {name} and takes it now; docs/torch-export.md must say so")


def _as_they_are(model: Any) -> None:
    with mock.patch.object(target, "traced", symbolic_operators.exported):
        target.trace_target(model)


def _with_fakes_alone(model: Any) -> None:
    _register_fakes()
    _as_they_are(model)


def _with_an_opset_of_onnxscript(model: Any) -> None:
    dovetail = onnxscript.values.Opset("dovetail", 1)

    def embedding(input_ids: Any, weight: str, hidden_size: int) -> Any:  # noqa: ARG001
        return dovetail.Embedding(dovetail.Weight(name=weight), input_ids)

    export = torch.onnx.export
    table: dict[Any, Any] = {torch.ops.dovetail.embedding.default: embedding}
    with mock.patch.object(torch.onnx, "export", lambda *a, **k: export(*a, **k, custom_translation_table=table)):
        _as_they_are(model)


def _without_the_onnx_exporter(model: Any) -> None:
    def exported(_: str, module: Any, arguments: tuple[Any, ...], *, inputs: Axes, **__: Any) -> None:
        torch.export.export(module, arguments, dynamic_shapes=symbolic_operators.dynamic_shapes(arguments, inputs))

    with symbolic_operators.traced_by_torch_export(), mock.patch.object(target, "traced", exported):
        target.trace_target(model)


def _register_fakes() -> None:
    """Shapes for the custom operators; the process keeps them."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *inputs: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
        return torch.empty_like(query), torch.empty_like(inputs[0]), torch.empty_like(inputs[1])

    operators.embedding.register_fake(lambda input_ids, _, size: torch.empty(*input_ids.shape, size))
    operators.linear.register_fake(lambda x, *names_and_size: x.new_empty(*x.shape[:-1], names_and_size[-1]))
    operators.rms_norm.register_fake(lambda x, *_: torch.empty_like(x))
    operators.head_rms_norm.register_fake(lambda x, *_: torch.empty_like(x))
    operators.group_query_attention.register_fake(attention)


_ATTEMPTS: Final = {
    "our custom operators as they are": _as_they_are,
    "with fakes, without a translation": _with_fakes_alone,
    "with a translation by onnxscript's `Opset`": _with_an_opset_of_onnxscript,
    "`torch.export.export` by itself, the example a batch of one": _without_the_onnx_exporter,
}
