"""Writes a source's target by a recipe: what all recipes share is read, measured and computed once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from dovetail_ort_export.calibration import activation_maxima, cache_maxima, calibration_texts
from dovetail_ort_export.chain_graph import chain_graph_name, write_chain_graph
from dovetail_ort_export.equalization import EQUALIZED_FAMILIES, EqualizedWeights
from dovetail_ort_export.export_options import ExportOptions
from dovetail_ort_export.graph_file import graph_name, save_graph
from dovetail_ort_export.pass_pipeline import apply_recipe
from dovetail_ort_export.passes import PassContext
from dovetail_ort_export.recipe import Recipe
from dovetail_ort_export.source import Source
from dovetail_ort_export.tracing import trace_target
from dovetail_ort_export.weights import Weights, head_size
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.kv_cache import cache_bytes
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.measurements import Calibration
from dovetail_ort_runtime.target import Target

MAX_ROWS: Final = 64
_EQUALIZE: Final = "equalize"
_QUANTIZE_CACHE: Final = "quantize-cache"
_FRONT_NAME: Final = "model_front_fp16.onnx"
_HALF: Final = 2  # bytes of a number in fp16
_FLOAT: Final = 4  # and in fp32
_GRAPH_BYTES: Final = 2**20  # the front's graph itself, beside its weights

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A target that has been written.

    Attributes:
        folder: where its graph and weights are, and nothing else.
        entry: what the manifest would say of it.
        calibration: on which text activations were measured; None if no pass asks for it.
    """

    folder: Path
    entry: TargetEntry
    calibration: Calibration | None = None

    @property
    def is_quantised(self) -> bool:
        """Whether any part of it computes in fewer bits than float32."""
        return self.entry.precision != "fp32" or self.entry.front_graph is not None

    @property
    def num_bytes(self) -> int:
        """Size of graph and weights."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def open(self, num_tokens: int) -> Target:
        """Its target, with room for a text of `num_tokens` and the row that pads an exact pass."""
        return Target(
            self.folder / self.entry.graph, self.entry, max_context=min(self.entry.max_context, num_tokens + 1)
        )


class TargetWriter:
    """One source's target, in as many forms as there are recipes.

    Args:
        source: the model.
        options: of the export; its recipes, precision and format are not looked at.
        max_context: largest number of tokens of prompt and answer.
        report: is told what takes time.

    Attributes:
        weights_sha256: of the model's weights, whatever form they are written in.
    """

    def __init__(self, source: Source, options: ExportOptions, max_context: int, report: Report) -> None:
        self._source, self._options, self._report = source, options, report
        self._max_context = max_context
        self._gpu_layers = self._number_of_gpu_layers()
        self._weights = Weights(source.model, max_context=max_context)
        self.weights_sha256 = self._weights.sha256()

    def write(self, name: str, recipe: Recipe, folder: Path) -> Candidate:
        """Write the graphs that `recipe`, called `name` in reports, makes into a new folder.

        Raises:
            InputError: a pass is unknown or does not fit its place.
            SourceError: the model's dimensions do not suit the number format.
        """
        entry = self._entry(recipe)
        equalized = self._equalized if _EQUALIZE in recipe.names else None
        measured = self._cache_maxima(equalized) if _QUANTIZE_CACHE in recipe.names else None
        self._report(f"writing {name}")
        whole = PassContext(weights=self._weights, equalized=equalized, cache_maxima=measured)
        cut = entry.front_layers
        made = {entry.graph: (recipe, replace(whole, first_block=cut))}
        if entry.front_graph is not None:
            front = recipe.lowered_by("lower-half", "fp16").without(_QUANTIZE_CACHE)  # its cache is in half precision
            made[entry.front_graph] = (front, replace(whole, end_block=cut))
        graphs = {file: apply_recipe(trace_target(self._source.model), *how) for file, how in made.items()}
        folder.mkdir()
        for file, graph in graphs.items():
            save_graph(graph, folder / file)
        if entry.front_graph is not None and entry.front_chain_graph is not None:
            write_chain_graph(folder / entry.front_graph, entry.front_chain_graph)
        return Candidate(folder=folder, entry=entry, calibration=self._calibration() if equalized or measured else None)

    @cached_property
    def _equalized(self) -> EqualizedWeights | None:
        config = self._source.model.config
        if config.model_type not in EQUALIZED_FAMILIES:
            self._report(f"no rule to equalise {config.model_type}: its activations are quantised as they are")
            return None
        return EqualizedWeights(self._weights, config, self._measured(activation_maxima), self._options.alpha)

    def _cache_maxima(self, equalized: EqualizedWeights | None) -> dict[str, FloatArray]:
        """Of the keys and values that the graph will compute; those of an equal model have other values."""
        maxima = self._measured(cache_maxima)
        for block, scale in enumerate([] if equalized is None else equalized.value_scales):
            maxima[f"{block}.value"] = maxima[f"{block}.value"] / scale
        return maxima

    def _measured(self, measure: Callable[[Any, list[TokenArray]], dict[str, FloatArray]]) -> dict[str, FloatArray]:
        texts = self._texts
        self._report(f"measuring activations over {sum(map(len, texts))} tokens")
        return measure(self._source.model, texts)

    @cached_property
    def _texts(self) -> list[TokenArray]:
        options = self._options
        doing = "writing" if options.calibration_text is None else "reading"
        self._report(f"{doing} a text to measure activations on")
        return calibration_texts(self._source, options.calibration_text, options.calibration_tokens, options.seed)

    def _calibration(self) -> Calibration:
        options = self._options
        name = None if options.calibration_text is None else options.calibration_text.name
        num_tokens = sum(map(len, self._texts))
        return Calibration(text=name, num_tokens=num_tokens, seed=options.seed, alpha=options.alpha)

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

    def _entry(self, recipe: Recipe) -> TargetEntry:
        config = self._source.model.config
        return TargetEntry(
            graph=graph_name("model", recipe.precision),
            family=config.model_type,
            precision=recipe.precision,
            passes=recipe.describe(),
            front_graph=_FRONT_NAME if self._gpu_layers else None,
            front_chain_graph=chain_graph_name(_FRONT_NAME) if self._gpu_layers else None,
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
    """The most blocks of a causal LM that so many bytes hold with embedding, cache and the activations of a pass.

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
