"""Writes a source's target by one recipe, or by a native and a portable one side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.options import MAX_ROWS, ExportOptions, Report
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.pipeline import apply_recipe
from dovetail_ort_export.quantization.cache_range import LARGEST_HALF, fits_half, largest_of
from dovetail_ort_export.recipe import LOWER_NATIVE, Recipe
from dovetail_ort_export.source import Source
from dovetail_ort_export.source.weights import Weights, head_size
from dovetail_ort_export.tracing.target import trace_target
from dovetail_ort_export.writing.chain_graph import chain_graph_name, write_chain_graph
from dovetail_ort_export.writing.graph_file import graph_name, save_graph, save_graph_over
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.formats import NATIVE, PORTABLE
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.engine.kv_cache import cache_bytes
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.kernels import OPERATOR_VERSION
from dovetail_ort_runtime.machine.processor import usable_cores

_QUANTIZE_CACHE: Final = "quantize-cache"
_FRONT_NAME: Final = "model_front_fp16.onnx"
_REST_NAME: Final = "model_rest_native.onnx"
_HALF: Final = 2  # bytes of a number in fp16
_FLOAT: Final = 4  # and in fp32
_GRAPH_BYTES: Final = 2**20  # the front's graph itself, beside its weights


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenTarget:
    """A target in a folder.

    Attributes:
        folder: where its graphs and weights are.
        entry: what the manifest would say of it.
    """

    folder: Path
    entry: TargetEntry

    @property
    def is_quantised(self) -> bool:
        """Whether any part of it computes in fewer bits than float32."""
        return self.entry.precision != "fp32" or self.entry.front_graph is not None

    def portable(self) -> WrittenTarget:
        """What is loaded in its place where the library of operators is missing."""
        assert self.entry.portable_graph is not None
        entry = replace(
            self.entry,
            graph=self.entry.portable_graph,
            format=PORTABLE,
            operators=None,
            portable_graph=None,
            front_graph=None,
            front_chain_graph=None,
            front_layers=0,
            rest_graph=None,
        )
        return WrittenTarget(folder=self.folder, entry=entry)

    def open(self, num_tokens: int) -> Target:
        """Its target, with room for a text of `num_tokens` and the row that pads a portable forward."""
        return Target(
            self.folder / self.entry.graph, self.entry, max_context=min(self.entry.max_context, num_tokens + 1)
        )


class TargetWriter:
    """One source's target, by any recipe.

    Args:
        source: the model.
        options: of the export; recipes, precision and format are not looked at.
        max_context: largest number of tokens of prompt and answer.
        cache_maxima: what `measured_cache` found on a text.
        report: is told what takes time.

    Attributes:
        weights_sha256: of the model's weights, whatever form they are written in.
    """

    def __init__(
        self,
        source: Source,
        options: ExportOptions,
        max_context: int,
        cache_maxima: Mapping[str, FloatArray],
        report: Report,
    ) -> None:
        self._source, self._options, self._report = source, options, report
        self._max_context = max_context
        self._gpu_layers = self._number_of_gpu_layers()
        self._weights = Weights(source.model, max_context=max_context)
        self._cache_maxima = cache_maxima
        self.weights_sha256 = self._weights.sha256()

    def write(self, recipes: Sequence[Recipe], folder: Path) -> WrittenTarget:
        """Write the graphs that recipes make into a folder that is there.

        Args:
            recipes: one, or a native one before a portable one.
            folder: of the bundle.

        Raises:
            InputError: a pass is unknown or does not fit its place.
            SourceError: the model's dimensions do not suit the format.
        """
        recipe, *beside = map(self._with_cache_that_fits, recipes)
        entry = self._entry(recipe, beside)
        cut = entry.front_layers
        self._save(recipe, folder / entry.graph, first_block=0 if entry.format == NATIVE else cut)
        if entry.rest_graph is not None:
            rest = folder / entry.rest_graph
            save_graph_over(self._graph(recipe, first_block=cut), rest, folder / entry.graph)
            open_session(rest, usable_cores())  # it loads: a GPU may be far away
        if entry.portable_graph is not None:
            self._save(beside[0], folder / entry.portable_graph)
        if entry.front_graph is not None:
            front = recipe.lowered_by("lower-half", "fp16").without(_QUANTIZE_CACHE)  # its cache is in half precision
            self._save(front, folder / entry.front_graph, end_block=cut)
        if entry.front_graph is not None and entry.front_chain_graph is not None:
            write_chain_graph(folder / entry.front_graph, entry.front_chain_graph)
        return WrittenTarget(folder=folder, entry=entry)

    def _save(self, recipe: Recipe, path: Path, first_block: int = 0, end_block: int | None = None) -> None:
        self._report(f"writing {path.name}")
        save_graph(self._graph(recipe, first_block, end_block), path)

    def _graph(self, recipe: Recipe, first_block: int, end_block: int | None = None) -> ir.Model:
        context = PassContext(
            weights=self._weights, cache_maxima=self._cache_maxima, first_block=first_block, end_block=end_block
        )
        return apply_recipe(trace_target(self._source.model), recipe, context)

    def _with_cache_that_fits(self, recipe: Recipe) -> Recipe:
        """The recipe with keys and values in fp32 where fp16 does not hold them."""
        if recipe.format != NATIVE or fits_half(self._cache_maxima):
            return recipe
        self._report(
            f"note: keys and values are kept in fp32: the largest measured is {largest_of(self._cache_maxima):.4g}, "
            f"and fp16 ends at {LARGEST_HALF:g}"
        )
        return recipe.given(LOWER_NATIVE, cache="fp32")

    def _number_of_gpu_layers(self) -> int:
        model, number = self._source.model, self._options.gpu_layers
        if self._options.vram_limit is not None:
            number = _blocks_within(self._options.vram_limit, model, self._max_context)
            self._report(f"cutting after {number} of {model.config.num_hidden_layers} blocks")
        if number >= model.config.num_hidden_layers:
            raise InputError(
                f"gpu_layers must be below the model's {model.config.num_hidden_layers} blocks, got {number}"
            )
        return int(number)

    def _entry(self, recipe: Recipe, beside: Sequence[Recipe]) -> TargetEntry:
        config = self._source.model.config
        is_native, is_cut = recipe.format == NATIVE, self._gpu_layers > 0
        return TargetEntry(
            graph=graph_name("model", recipe.precision, recipe.format),
            format=recipe.format,
            operators=OPERATOR_VERSION if is_native else None,
            portable_graph=graph_name("model", beside[0].precision) if beside else None,
            rest_graph=_REST_NAME if is_native and is_cut else None,
            family=config.model_type,
            precision=recipe.precision,
            passes=recipe.describe(),
            front_graph=_FRONT_NAME if is_cut else None,
            front_chain_graph=chain_graph_name(_FRONT_NAME) if is_cut else None,
            front_layers=self._gpu_layers,
            exact=False,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_size=head_size(config),
            hidden_size=config.hidden_size,
            vocabulary_size=config.vocab_size,
            num_parameters=self._weights.num_parameters,
            max_context=self._max_context,
            max_rows=MAX_ROWS,
            intermediate_size=config.intermediate_size,
            weights_sha256=self.weights_sha256,
        )


def _blocks_within(vram_limit: int, model: Any, max_context: int) -> int:
    """The most blocks of a causal LM that so many bytes hold with embedding, cache and the activations of a forward.

    Never all of them. What CUDA and its libraries take for themselves is not counted. Where attention is not flash
    attention, its scores are there at once, (H, S, T) in float32.
    """
    config = model.config
    embedding = model.get_input_embeddings().weight.numel()
    rotary = max_context * head_size(config)
    activations = MAX_ROWS * (4 * config.hidden_size + 3 * config.intermediate_size)
    scores = _FLOAT * MAX_ROWS * config.num_attention_heads * max_context
    ends = _HALF * (embedding + rotary + activations) + scores + _GRAPH_BYTES
    weights = _HALF * sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    block = weights + cache_bytes(1, config.num_key_value_heads, max_context, head_size(config), np.float16)
    number = (vram_limit - ends) // block
    if number < 1:
        raise InputError(
            f"vram_limit must hold {ends} bytes of embedding and activations and {block} of a block with its cache, "
            f"got {vram_limit}; take a larger one or a smaller max_context"
        )
    return int(min(number, config.num_hidden_layers - 1))
