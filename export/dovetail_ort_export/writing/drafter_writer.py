"""Make a draft graph by a recipe, write its files into a bundle, and describe them for the manifest.

It knows no training: a head comes with its weights, and the tokens that it can draft.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.options import AUTO_PRECISION, MAX_ROWS
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.pipeline import apply_recipe
from dovetail_ort_export.recipe import LOWER_NATIVE, Recipe, built_in_recipe
from dovetail_ort_export.source.weights import NamedWeights
from dovetail_ort_export.tracing.drafter import trace_drafter
from dovetail_ort_export.writing.chain_graph import chain_graph_name, write_chain_graph
from dovetail_ort_export.writing.drafter_parts import DrafterParts
from dovetail_ort_export.writing.graph_file import save_graph, save_graph_beside
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.formats import FP16, FP32, INT8, NATIVE
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE, SIN_TABLE
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.kernels import OPERATOR_VERSION

_LOWERINGS: Final = {INT8: "lower-int8-blocks", FP16: "lower-half", FP32: "lower-float"}


def drafter_recipe(precision: str, target_format: str) -> Recipe:
    """The recipe of a drafter; its integers are native where the target is native and can be run.

    Args:
        precision: one of `DRAFTER_PRECISIONS`.
        target_format: `native` or `portable`, format of the target that it drafts for.

    Raises:
        InputError: int4 is asked for, and the drafter cannot be native.
    """
    recipe = built_in_recipe("drafter")
    is_native = target_format == NATIVE and kernels.is_available()
    if precision == AUTO_PRECISION:
        precision = recipe.precision if is_native else INT8
    if precision == recipe.precision:
        if not is_native:
            raise InputError(
                "precision must be int8, fp16 or fp32 where the drafter is portable, got int4; export the target with "
                "--format native where the library of operators is"
            )
        return recipe
    if is_native and precision == INT8:
        return replace(recipe.given(LOWER_NATIVE, bits=8, logits_bits=8), precision=precision)
    return recipe.lowered_by(_LOWERINGS[precision], precision)


def drafter_graph(parts: DrafterParts, recipe: Recipe) -> ir.Model:
    """The graph that drafts with a head, between a table of embedded tokens and the reduced head.

    Inputs: `hidden_states` (B, S, E), true features or predicted ones; `input_ids` (B, S), the token after each;
    `scored_rows` (n,), the rows whose logits are wanted; positions, caches and all else that attention reads, as in a
    target. Outputs: `logits` (B, n, Vd) float32, `predicted_states` (B, S, E) and the present caches. The recipe may
    rank the logits.

    Args:
        parts: head and ends.
        recipe: recipe of a drafter.

    Raises:
        InputError: a pass is unknown or does not fit its place.
    """
    skeleton = trace_drafter(parts.config, len(parts.embedded), len(parts.draft_token_ids))
    return apply_recipe(skeleton, recipe, PassContext(weights=_weights(parts), draft_token_ids=parts.draft_token_ids))


def drafter_entry(parts: DrafterParts, target_sha256: str, graph: str, recipe: Recipe) -> DrafterEntry:
    """What a manifest says of a head's graph.

    Args:
        parts: head and ends that the graph is made of.
        target_sha256: checksum of the target's weights that the head was trained for.
        graph: file name of the graph.
        recipe: recipe that makes the graph.
    """
    block = parts.config.block
    return DrafterEntry(
        graph=graph,
        format=recipe.format,
        operators=OPERATOR_VERSION if recipe.format == NATIVE else None,
        chain_graph=chain_graph_name(graph) if recipe.precision == FP16 else None,
        precision=recipe.precision,
        passes=recipe.describe(),
        fusion=parts.config.fusion,
        target_sha256=target_sha256,
        num_layers=parts.config.num_blocks,
        num_kv_heads=block.num_kv_heads,
        head_size=block.head_size,
        hidden_size=block.hidden_size,
        draft_vocabulary_size=len(parts.draft_token_ids),
        num_parameters=parts.num_parameters,
        max_rows=MAX_ROWS,
    )


def write_drafter(graph: ir.Model, folder: Path, entry: DrafterEntry) -> None:
    """Write draft graphs and their weights into a folder, under the names in the entry."""
    save = save_graph_beside if _has_weights_in(graph, folder) else save_graph
    save(graph, folder / entry.graph)
    if entry.chain_graph is not None:
        write_chain_graph(folder / entry.graph, entry.chain_graph)


def _has_weights_in(graph: ir.Model, folder: Path) -> bool:
    """Whether some weights of a graph lie in a folder already, in a file of another graph."""
    tensors = (value.const_value for value in graph.graph.initializers.values())
    places = {Path(tensor.base_dir).resolve() for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return folder.resolve() in places


def _weights(parts: DrafterParts) -> NamedWeights:
    """All weights by the names that the trace gives them."""
    tensors = {f"head.{name}": tensor for name, tensor in parts.weights.items()}
    tensors["embed_tokens.weight"] = parts.embedded
    tensors["lm_head.weight"] = parts.lm_head
    tensors[COS_TABLE] = parts.cos
    tensors[SIN_TABLE] = parts.sin
    return NamedWeights(tensors)
