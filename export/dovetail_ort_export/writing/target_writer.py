"""A target by one recipe, or by a native and a portable one: its graphs, and what the manifest says of them.

It knows no checkpoint: the model is loaded, and what its keys and values reach is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

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
from dovetail_ort_export.writing.gpu_layers import number_of_gpu_layers
from dovetail_ort_export.writing.graph_file import graph_name, save_graph, save_graph_over
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.formats import FP16, FP32, NATIVE, PORTABLE
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.kernels import OPERATOR_VERSION
from dovetail_ort_runtime.machine.processor import usable_cores

_QUANTIZE_CACHE: Final = "quantize-cache"
_FRONT_NAME: Final = "model_front_fp16.onnx"
_REST_NAME: Final = "model_rest_native.onnx"


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
        return self.entry.precision != FP32 or self.entry.front_graph is not None

    def portable(self) -> WrittenTarget:
        """The target that is loaded instead if the library of operators is missing."""
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
        max_context = min(self.entry.max_context, num_tokens + 1)
        return Target(self.folder / self.entry.graph, self.entry, max_context=max_context)


class TargetWriter:
    """One source's target, by any recipe.

    Args:
        source: loaded model.
        options: settings of the export; recipes, precision and format are not used.
        max_context: largest number of tokens of prompt and answer.
        cache_maxima: what `measured_cache` found on a text.
        report: function that is called with one line of text for each step that takes time.

    Attributes:
        weights_sha256: checksum of the model's weights, whatever form they are written in.

    Raises:
        InputError: so many blocks cannot go to a GPU.
    """

    def __init__(
        self,
        source: Source,
        options: ExportOptions,
        max_context: int,
        cache_maxima: Mapping[str, FloatArray],
        report: Report,
    ) -> None:
        self._source = source
        self._max_context = max_context
        self._cache_maxima = cache_maxima
        self._report = report
        self._gpu_layers = number_of_gpu_layers(options, source.model, max_context, report)
        self._weights = Weights(source.model, max_context=max_context)
        self.weights_sha256 = self._weights.sha256()

    def write(self, recipes: Sequence[Recipe], folder: Path) -> WrittenTarget:
        """Write the graphs that recipes make into a folder that is there.

        Args:
            recipes: one recipe, or a native one before a portable one.
            folder: directory of the bundle.

        Raises:
            InputError: a pass is unknown or does not fit its place.
            SourceError: the model's dimensions do not suit the format.
        """
        fitting = [self._with_cache_that_fits(recipe) for recipe in recipes]
        recipe = fitting[0]
        portable = fitting[1] if len(fitting) > 1 else None
        entry = self._entry(recipe, portable)
        self._write_main(recipe, entry, folder)
        if entry.rest_graph is not None:
            self._write_rest(recipe, entry.rest_graph, entry, folder)
        if portable is not None and entry.portable_graph is not None:
            self._save(portable, folder / entry.portable_graph)
        if entry.front_graph is not None:
            self._write_front(recipe, entry.front_graph, entry, folder)
        return WrittenTarget(folder=folder, entry=entry)

    def _write_main(self, recipe: Recipe, entry: TargetEntry, folder: Path) -> None:
        """A native graph is whole, also beside a front graph; a portable one then begins where that ends."""
        first_block = 0 if entry.format == NATIVE else entry.front_layers
        self._save(recipe, folder / entry.graph, first_block=first_block)

    def _write_rest(self, recipe: Recipe, name: str, entry: TargetEntry, folder: Path) -> None:
        """The native blocks after the front graph, over the weights of the whole graph."""
        graph = self._graph(recipe, first_block=entry.front_layers)
        save_graph_over(graph, folder / name, folder / entry.graph)
        open_session(folder / name, usable_cores())  # it loads: a GPU may be far away

    def _write_front(self, recipe: Recipe, name: str, entry: TargetEntry, folder: Path) -> None:
        """The first blocks in half precision, their cache too."""
        front = recipe.lowered_by("lower-half", FP16).without(_QUANTIZE_CACHE)
        self._save(front, folder / name, end_block=entry.front_layers)
        if entry.front_chain_graph is not None:
            write_chain_graph(folder / name, entry.front_chain_graph)

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
        return recipe.given(LOWER_NATIVE, cache=FP32)

    def _entry(self, recipe: Recipe, portable: Recipe | None) -> TargetEntry:
        config = self._source.model.config
        is_native = recipe.format == NATIVE
        is_cut = self._gpu_layers > 0
        return TargetEntry(
            graph=graph_name("model", recipe.precision, recipe.format),
            format=recipe.format,
            operators=OPERATOR_VERSION if is_native else None,
            portable_graph=None if portable is None else graph_name("model", portable.precision),
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
