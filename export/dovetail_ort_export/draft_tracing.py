"""Trace a draft head into a graph skeleton, as `tracing` does with a target."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dovetail_ort_export import operators
from dovetail_ort_export.tracing import LayerCache, attend, leaf_forward
from dovetail_ort_export.training.draft_head import DraftHead, HeadConfig

_ROWS: Final = 3
_CACHE_ROWS: Final = 8
_ROW_INPUTS: Final = {
    "hidden_states": {0: "batch_size", 1: "sequence_length"},
    "input_ids": {0: "batch_size", 1: "sequence_length"},
    "position_ids": {0: "batch_size", 1: "sequence_length"},
    "attention_bias": {0: "batch_size", 2: "sequence_length", 3: "total_sequence_length"},
    "seqlens_k": {0: "batch_size"},
    "total_sequence_length": {},
    "scored_rows": {0: "num_scored_rows"},
}


def trace_draft_head(config: HeadConfig, *, vocabulary_size: int, draft_vocabulary_size: int) -> ir.Model:
    """The skeleton of a head with a table of embedded tokens in front and the reduced head of the target behind.

    Inputs: `hidden_states` (B, S, E), true features or predicted ones; `input_ids` (B, S), the token after each;
    positions, bias, lengths and caches as a target's; `scored_rows` (n,), the rows whose logits are wanted. Outputs:
    `logits` (B, n, Vd) float32, `predicted_states` (B, S, E) and the present caches.

    Args:
        config: of the head.
        vocabulary_size: V.
        draft_vocabulary_size: Vd.
    """
    graph = _DraftGraph(config, vocabulary_size, draft_vocabulary_size).eval()
    cache = torch.zeros(1, config.num_kv_heads, _CACHE_ROWS, config.head_size)
    caches = [(cache.clone(), cache.clone()) for _ in range(config.num_blocks)]
    parts = [f"{layer}.{part}" for layer in range(config.num_blocks) for part in ("key", "value")]
    inputs = [*_ROW_INPUTS, *(f"past_key_values.{part}" for part in parts)]
    outputs = ["logits", "predicted_states", *(f"present.{part}" for part in parts)]
    cache_axes = {0: "batch_size", 2: "max_sequence_length"}
    axes = {name: _ROW_INPUTS.get(name, cache_axes) for name in inputs}
    axes |= dict.fromkeys(outputs[2:], cache_axes)
    axes |= {"logits": {0: "batch_size", 1: "num_scored_rows"}, "predicted_states": _ROW_INPUTS["hidden_states"]}
    arguments = (
        torch.zeros(1, _ROWS, config.hidden_size),
        torch.zeros(1, _ROWS, dtype=torch.int64),
        torch.arange(_ROWS)[None],
        torch.zeros(1, 1, _ROWS, _ROWS),
        torch.tensor([_ROWS - 1], dtype=torch.int32),
        torch.tensor(_ROWS, dtype=torch.int32),
        torch.tensor([_ROWS - 1]),
        caches,
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every constant it meets and of its own successor
        path = Path(folder) / "skeleton.onnx"
        torch.onnx.export(
            graph,
            arguments,
            path,
            dynamo=False,
            opset_version=operators.OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: sizes for name, sizes in axes.items() if sizes},
        )
        skeleton = ir.load(path)
    _state_output_shapes(skeleton, config, draft_vocabulary_size)
    skeleton.graph.name = "drafter"
    return skeleton


@dataclass(frozen=True, slots=True)
class _Place:
    """What stands for an attention's memory while it is traced."""

    position_ids: Tensor
    cache: LayerCache


class _DraftGraph(nn.Module):
    def __init__(self, config: HeadConfig, vocabulary_size: int, draft_vocabulary_size: int) -> None:
        super().__init__()
        size = config.hidden_size
        with torch.device("meta"):
            self.embed_tokens = nn.Embedding(vocabulary_size, size)
            self.head = DraftHead(config)
            self.lm_head = nn.Linear(size, draft_vocabulary_size, bias=False)
        heads = (config.num_heads, config.num_kv_heads)
        for name, module in self.named_modules():
            if type(module).__name__ == "DraftAttention":
                module.forward = lambda x, place, module=module: attend(
                    module, x, place.position_ids, place.cache, heads
                )
            elif (forward := leaf_forward(name, module)) is not None:
                module.forward = forward

    def forward(
        self,
        hidden_states: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        scored_rows: Tensor,
        past_key_values: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, ...]:
        lengths = (seqlens_k, total_sequence_length)
        present: list[Tensor] = []
        places = [
            _Place(position_ids, LayerCache(past=past, lengths=lengths, bias=attention_bias, present=present))
            for past in past_key_values
        ]
        predicted = self.head(hidden_states, self.embed_tokens(input_ids), places)
        logits = self.lm_head(torch.index_select(predicted, 1, scored_rows))
        return logits, predicted, *present


def _state_output_shapes(skeleton: ir.Model, config: HeadConfig, draft_vocabulary_size: int) -> None:
    cache: list[int | str] = [config.num_kv_heads, "max_sequence_length", config.head_size]
    widths: dict[str, list[int | str]] = {
        "logits": ["num_scored_rows", draft_vocabulary_size],
        "predicted_states": ["sequence_length", config.hidden_size],
    }
    for output in skeleton.graph.outputs:
        output.shape = ir.Shape(["batch_size", *widths.get(str(output.name), cache)])
