"""A bundle's drafter: a trained head, traced as a target is, then through its recipe, and put beside the target."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dovetail_ort_export.heads.config import HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.options import AUTO_PRECISION, DRAFTER_PRECISIONS
from dovetail_ort_export.passes import PassContext
from dovetail_ort_export.pipeline import apply_recipe
from dovetail_ort_export.recipe import LOWER_NATIVE, Recipe, built_in_recipe, read_recipe
from dovetail_ort_export.source.weights import NamedWeights
from dovetail_ort_export.tracing.target import (
    INPUT_AXES,
    ROW_AXES,
    LayerCache,
    attend,
    cache_axes,
    example_inputs,
    leaf_forward,
    traced,
)
from dovetail_ort_export.training.head_files import HeadRecord, load_head
from dovetail_ort_export.writing.bundle_output import bundle_directory, clear_leftovers, copy_without, write_manifest
from dovetail_ort_export.writing.chain_graph import chain_graph_name, write_chain_graph
from dovetail_ort_export.writing.graph_file import graph_name, save_graph
from dovetail_ort_export.writing.target_ends import TargetEnds, read_target_ends
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE, SIN_TABLE
from dovetail_ort_runtime.bundle.hub_cache import Snapshot
from dovetail_ort_runtime.bundle.manifest import NATIVE, DrafterEntry, Manifest
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.kernels import OPERATOR_VERSION

_MAX_ROWS: Final = 64
_LOWERINGS: Final = {"int8": "lower-int8-blocks", "fp16": "lower-half", "fp32": "lower-float"}


def attach_drafter(
    bundle_path: str | Path,
    head_path: Path,
    precision: str = AUTO_PRECISION,
    report: Callable[[str], None] = lambda _: None,
    *,
    recipe: Path | None = None,
) -> Manifest:
    """Export a head and put it into a bundle, in the place of the drafter that was there; the new manifest.

    Args:
        bundle_path: the bundle; it is replaced as a whole or not at all.
        head_path: directory that training wrote.
        precision: one of `DRAFTER_PRECISIONS`; `auto` is int4 where the drafter is native, and else int8.
        report: is told each step in a line.
        recipe: TOML file with the passes that make the graph, in the place of the precision.

    Raises:
        InputError: the head is damaged, or belongs to another target; or the bundle lies in the hub's cache.
        BundleError: a file of the bundle is damaged.
    """
    if precision not in DRAFTER_PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(DRAFTER_PRECISIONS)}, got {precision!r}")
    clear_leftovers(Path(bundle_path))
    bundle = Bundle(bundle_path, "all")  # what is copied gets new checksums
    if Snapshot.around(bundle.directory) is not None:
        raise InputError(
            f"a bundle in the hub's cache must stay as it is, got {str(bundle_path)!r}; attach to a copy of it, made "
            f"with: cp -rL {shlex.quote(str(bundle.directory))} bundle"
        )
    manifest = bundle.manifest
    steps = drafter_recipe(precision, manifest.target.format) if recipe is None else read_recipe(recipe)
    head, draft_token_ids, record = load_head(head_path, manifest.target)
    entry = drafter_entry(head, draft_token_ids, record, graph_name("drafter", steps.precision, steps.format), steps)
    with bundle_directory(bundle.directory) as directory:
        copy_without(bundle, () if manifest.drafter is None else manifest.drafter.graphs, directory)
        report("reading embedding and head of the target")
        ends = read_target_ends(bundle)
        report("writing the drafter")
        write_drafter(drafter_graph(head, ends, draft_token_ids, steps), directory, entry)
        DraftGraph(directory / entry.graph, entry, capacity=2, threads=1)  # it loads, and has the stated dimensions
        return write_manifest(replace(manifest, drafter=entry), directory)


def drafter_entry(
    head: DraftHead, draft_token_ids: TokenArray, record: HeadRecord, graph: str, recipe: Recipe
) -> DrafterEntry:
    """What a manifest says of a head's graph."""
    return DrafterEntry(
        graph=graph,
        format=recipe.format,
        operators=OPERATOR_VERSION if recipe.format == NATIVE else None,
        chain_graph=chain_graph_name(graph) if recipe.precision == "fp16" else None,
        precision=recipe.precision,
        passes=recipe.describe(),
        fusion=record.config.fusion,
        target_sha256=record.target_sha256,
        num_layers=record.config.num_blocks,
        num_kv_heads=record.config.num_kv_heads,
        head_size=record.config.head_size,
        hidden_size=record.config.hidden_size,
        draft_vocabulary_size=len(draft_token_ids),
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        max_rows=_MAX_ROWS,
    )


def write_drafter(graph: ir.Model, folder: Path, entry: DrafterEntry) -> None:
    """Write a drafter's graphs and weights into a folder, under the names in its entry."""
    save_graph(graph, folder / entry.graph)
    if entry.chain_graph is not None:
        write_chain_graph(folder / entry.graph, entry.chain_graph)


def drafter_recipe(precision: str, target_format: str) -> Recipe:
    """The recipe of a drafter in one of `DRAFTER_PRECISIONS`; integers are native where the target is and can be run.

    Raises:
        InputError: an int4 one cannot be native.
    """
    recipe = built_in_recipe("drafter")
    is_native = target_format == NATIVE and kernels.is_available()
    if precision == AUTO_PRECISION:
        precision = recipe.precision if is_native else "int8"
    if precision == recipe.precision:
        if not is_native:
            raise InputError(
                "precision must be int8, fp16 or fp32 where the drafter is portable, got int4; export the target with "
                "--format native where the library of operators is"
            )
        return recipe
    if is_native and precision == "int8":
        return replace(recipe.given(LOWER_NATIVE, bits=8, logits_bits=8), precision=precision)
    return recipe.lowered_by(_LOWERINGS[precision], precision)


def drafter_graph(head: DraftHead, ends: TargetEnds, draft_token_ids: TokenArray, recipe: Recipe) -> ir.Model:
    """The graph that drafts with `head`, between a table of embedded tokens and the reduced head of its target.

    Inputs: `hidden_states` (B, S, E), true features or predicted ones; `input_ids` (B, S), the token after each;
    `scored_rows` (n,), the rows whose logits are wanted; positions, caches and all else that attention reads as a
    target's. Outputs: `logits` (B, n, Vd) float32, `predicted_states` (B, S, E) and the present caches; the recipe may
    rank the logits.

    Args:
        head: float32, on the CPU.
        ends: of its target.
        draft_token_ids: (Vd,) int64, the tokens it can draft.
        recipe: of a drafter.

    Raises:
        InputError: a pass is unknown or does not fit its place.
    """
    skeleton = _trace(head.config, len(ends.embedding), len(draft_token_ids))
    weights = _draft_weights(head, ends, draft_token_ids)
    return apply_recipe(skeleton, recipe, PassContext(weights=weights, draft_token_ids=draft_token_ids))


def _trace(config: HeadConfig, vocabulary_size: int, draft_vocabulary_size: int) -> ir.Model:
    rows = example_inputs(config.num_blocks, config.num_kv_heads, config.head_size)
    caches = rows.pop("past_key_values")
    num_rows = rows["input_ids"].shape[1]
    states = torch.zeros(1, num_rows, config.hidden_size)
    inputs = {"hidden_states": ROW_AXES, **INPUT_AXES, "scored_rows": {0: "num_scored_rows"}}
    inputs |= cache_axes("past_key_values", config.num_blocks)
    outputs = {"logits": {0: "batch_size", 1: "num_scored_rows"}, "predicted_states": ROW_AXES}
    outputs |= cache_axes("present", config.num_blocks)

    return traced(
        "drafter",
        _DraftGraph(config, vocabulary_size, draft_vocabulary_size).eval(),
        (states, *rows.values(), torch.tensor([num_rows - 1]), caches),
        inputs=inputs,
        outputs=outputs,
        widths={
            "logits": ["num_scored_rows", draft_vocabulary_size],
            "predicted_states": ["sequence_length", config.hidden_size],
        },
        cache=[config.num_kv_heads, "max_sequence_length", config.head_size],
    )


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
                module.forward = lambda x, cache, module=module: attend(module, x, cache, heads)
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
        # They stand for the attentions' memories.
        caches = [LayerCache(position_ids, past, lengths, attention_bias, present) for past in past_key_values]
        predicted = self.head(hidden_states, self.embed_tokens(input_ids), caches)
        logits = self.lm_head(torch.index_select(predicted, 1, scored_rows))
        return logits, predicted, *present


@torch.no_grad()
def _draft_weights(head: DraftHead, ends: TargetEnds, draft_token_ids: TokenArray) -> NamedWeights:
    """The head's own weights, and the two ends that it shares with its target."""
    tensors: dict[str, Tensor] = {f"head.{name}": parameter for name, parameter in head.named_parameters()}
    # What the fusion makes of a token depends on nothing else: it is looked up instead of the embedding.
    tensors["embed_tokens.weight"] = head.fusion.embed(torch.from_numpy(ends.embedding))
    tensors["lm_head.weight"] = torch.from_numpy(ends.head[draft_token_ids])
    tensors[COS_TABLE], tensors[SIN_TABLE] = torch.tensor(ends.cos), torch.tensor(ends.sin)
    return NamedWeights(tensors)
