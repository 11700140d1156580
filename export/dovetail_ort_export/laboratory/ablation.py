"""What each graph pass of a recipe is worth: the graph without it is timed in turns with the whole one.

It knows no kind of graph: a `Workshop` makes and measures them.
"""

from __future__ import annotations

import statistics
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import onnx_ir as ir

from dovetail_ort_export.options import Report
from dovetail_ort_export.recipe import Recipe
from dovetail_ort_export.writing.bundle_output import file_entries
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.bundle.measurements import Agreement, RowInvariance
from dovetail_ort_runtime.engine.forward_times import ForwardTimes, RunForward, time_in_turns
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.machine.processor import processor_name, usable_cores

ROWS: Final = (1, 2, 4, 8, 16)
WHOLE: Final = "the whole recipe"
AGAIN: Final = "the whole recipe again"
_ROUNDS: Final = 10
# Where a session's weights come to lie in memory changes its times by several per cent.
_OPENINGS: Final = 4

GraphT = TypeVar("GraphT")
# Opens a graph that was written, with room for so many tokens.
OpenGraph = Callable[[int], GraphT]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A graph that was made by one recipe, and what was measured of it.

    Attributes:
        name: what is different in the recipe.
        passes: names of the recipe's graph passes, in order.
        num_nodes: number of nodes in the graph.
        num_bytes: bytes of the graph and of its weights.
        forward_ms: median milliseconds of a forward, by its number of rows.
        over_whole: time of a forward over that of the whole recipe in the same round, by its number of rows. It is the
            median over the rounds of all sets of sessions.
        row_invariance: whether a row's result is independent of the other rows of its forward.
        agreement: how close the graph is to what it was made from, in float32.
    """

    name: str
    passes: tuple[str, ...]
    num_nodes: int
    num_bytes: int
    forward_ms: dict[str, float]
    over_whole: dict[str, float]
    row_invariance: RowInvariance
    agreement: Agreement


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """All variants of one graph.

    Attributes:
        source: name of the model or of the head that the graphs are made from.
        graph: `target` or `drafter`.
        machine: name of the processor.
        threads: number of threads that one forward uses.
        reproduced: whether the whole recipe gave the bundle's graph and weights, byte for byte.
        variants: what was measured. The whole recipe is first. The second one has the same files in other sessions, and
            shows how much of a ratio is chance.
        unchanged: names of variants whose files are those of the whole recipe, byte for byte.
        refused: reasons why a variant makes no graph, by its name.
    """

    source: str
    graph: str
    machine: str
    threads: int
    reproduced: bool
    variants: tuple[Variant, ...]
    unchanged: tuple[str, ...]
    refused: dict[str, str]


class Workshop(ABC, Generic[GraphT]):
    """Makes and measures graphs of one kind, by one recipe and others.

    Attributes:
        graph: `target` or `drafter`.
        source: name of what the graphs are made from.
        recipe: recipe that the bundle's graph was made by.
    """

    graph: str
    source: str
    recipe: Recipe

    @abstractmethod
    def write(self, name: str, recipe: Recipe, folder: Path) -> OpenGraph[GraphT]:
        """Write the graph that a recipe makes.

        Args:
            name: what reports call the recipe.
            recipe: list of graph passes.
            folder: folder for the graph and its weights, which is made.

        Returns:
            A function that opens the graph with room for so many tokens.

        Raises:
            InputError: a graph pass is unknown or does not fit its place.
            BundleError: the graph cannot be run.
        """

    @abstractmethod
    def measure(self, open_graph: OpenGraph[GraphT]) -> tuple[RowInvariance, Agreement]:
        """Measure whether a graph is batch-invariant, and how close it is to what it was made from."""

    @abstractmethod
    def forwards(self, open_graph: OpenGraph[GraphT]) -> RunForward:
        """A function that runs forwards of up to 16 rows over a graph, with tokens of context."""

    def ablate(self, manifest: Manifest, others: Mapping[str, Recipe], report: Report) -> Ablation:
        """Leave out each graph pass of the recipe in turn, and measure what is left.

        Args:
            manifest: manifest of the bundle that has the graph.
            others: further recipes to measure, by name.
            report: function that is called with one line of text for each step.

        Raises:
            InputError: the recipe itself makes no graph.
        """
        left_out = {f"without {name}": self.recipe.without(name) for name in dict.fromkeys(self.recipe.names)}
        with tempfile.TemporaryDirectory() as scratch:
            whole = self._make(WHOLE, self.recipe, Path(scratch) / "whole")
            made = self._make_variants(whole, {**left_out, **others}, Path(scratch))
            return Ablation(
                source=self.source,
                graph=self.graph,
                machine=processor_name(),
                threads=usable_cores(),
                reproduced=set(whole.files) <= set(manifest.files),
                variants=tuple(self._variants({WHOLE: whole, AGAIN: whole, **made.changed}, report)),
                unchanged=tuple(made.unchanged),
                refused=made.refused,
            )

    def _make(self, name: str, recipe: Recipe, folder: Path) -> _Made[GraphT]:
        return _Made(recipe, folder, self.write(name, recipe, folder))

    def _make_variants(
        self, whole: _Made[GraphT], recipes: Mapping[str, Recipe], scratch: Path
    ) -> _MadeVariants[GraphT]:
        """Make the graph of each recipe in a folder of its own."""
        changed: dict[str, _Made[GraphT]] = {}
        unchanged: list[str] = []
        refused: dict[str, str] = {}
        for number, (name, recipe) in enumerate(recipes.items()):
            try:
                variant = self._make(name, recipe, scratch / str(number))
            except (InputError, BundleError) as error:
                refused[name] = str(error)
                continue
            if variant.files == whole.files:
                unchanged.append(name)
            else:
                changed[name] = variant
        return _MadeVariants(changed=changed, unchanged=unchanged, refused=refused)

    def _variants(self, made: Mapping[str, _Made[GraphT]], report: Report) -> Iterator[Variant]:
        report("comparing outputs")
        measured = {name: self.measure(one.open_graph) for name, one in made.items()}
        report("timing forwards in turns")
        times = self._times(made)
        for name, one in made.items():
            row_invariance, agreement = measured[name]
            yield Variant(
                name=name,
                passes=one.recipe.describe(),
                num_nodes=one.num_nodes,
                num_bytes=sum(file.num_bytes for file in one.files),
                forward_ms={str(rows): round(statistics.median(times[name][rows]), 3) for rows in ROWS},
                over_whole={str(rows): _median_ratio(times[name][rows], times[WHOLE][rows]) for rows in ROWS},
                row_invariance=row_invariance,
                agreement=agreement,
            )

    def _times(self, made: Mapping[str, _Made[GraphT]]) -> dict[str, ForwardTimes]:
        """Milliseconds of the forwards of every graph, over several sets of sessions."""
        times: dict[str, ForwardTimes] = {name: {rows: [] for rows in ROWS} for name in made}
        for order in _opening_orders(list(made)):
            runs = {name: self.forwards(made[name].open_graph) for name in order}
            found = time_in_turns(runs, _ROUNDS, rows=ROWS)
            for name in made:
                for rows in ROWS:
                    times[name][rows] += found[name][rows]
        return times


class _Made(Generic[GraphT]):
    """A graph that was written.

    Attributes:
        recipe: recipe that it was made by.
        open_graph: function that opens the graph.
        files: path, size and checksum of each of its files.
        num_nodes: number of the graph's nodes.
    """

    def __init__(self, recipe: Recipe, folder: Path, open_graph: OpenGraph[GraphT]) -> None:
        self.recipe = recipe
        self.open_graph = open_graph
        self.files = file_entries(folder)
        (path,) = folder.glob("*.onnx")
        self.num_nodes = len(ir.load(path).graph)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _MadeVariants(Generic[GraphT]):
    """The outcome of other recipes.

    Attributes:
        changed: graphs that differ from the whole recipe's, by name.
        unchanged: names of the graphs that do not differ.
        refused: reasons why there is no graph, by the recipe's name.
    """

    changed: dict[str, _Made[GraphT]]
    unchanged: list[str]
    refused: dict[str, str]


def _opening_orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Orders in which the sets of sessions are opened: each begins elsewhere, and every other one runs backwards."""
    for opening in range(_OPENINGS):
        first = opening * len(names) // _OPENINGS
        order = [*names[first:], *names[:first]]
        if opening % 2 == 0:
            order.reverse()
        yield order


def _median_ratio(ms: Sequence[float], whole_ms: Sequence[float]) -> float:
    """Median over the rounds of one time over the other."""
    ratios = [mine / whole for mine, whole in zip(ms, whole_ms, strict=True)]
    return round(statistics.median(ratios), 3)
