"""What each pass of a graph's recipe is worth: the graph without it, measured in turns against the whole."""

from __future__ import annotations

import statistics
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

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

OpenGraph = Callable[[int], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A graph made by a recipe that differs.

    Attributes:
        name: what is different.
        num_bytes: of graph and weights.
        forward_ms: median milliseconds of a forward by its number of rows.
        over_whole: median of the time of a forward over the whole recipe's in the same round, over the rounds of
            four sets of sessions, each opened in another order.
        agreement: with what the recipe began from, in float32.
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
        source: name of the model or of the head.
        graph: `target` or `drafter`.
        reproduced: whether the whole recipe gave the bundle's graph and weights, byte for byte.
        variants: the whole recipe first; the same files once more second, which tells how much of a ratio is chance.
        unchanged: variants whose files are those of the whole recipe, byte for byte.
        refused: variants that make no graph, and why.
    """

    source: str
    graph: str
    machine: str
    threads: int
    reproduced: bool
    variants: tuple[Variant, ...]
    unchanged: tuple[str, ...]
    refused: dict[str, str]


class Workshop(ABC):
    """Makes and measures graphs of one kind, by one recipe and others.

    Attributes:
        graph: `target` or `drafter`.
        source: name of what the graphs are made from.
        recipe: by which the bundle's was made.
    """

    graph: str
    source: str
    recipe: Recipe

    @abstractmethod
    def write(self, name: str, recipe: Recipe, folder: Path) -> OpenGraph:
        """Write the graph that `recipe`, called `name` in reports, makes into a new folder.

        Returns:
            What opens it with room for so many tokens.

        Raises:
            InputError: a pass is unknown or does not fit its place.
            BundleError: the graph is none that can be run.
        """

    @abstractmethod
    def measure(self, open_graph: OpenGraph) -> tuple[RowInvariance, Agreement]:
        """Whether rows of a graph stand alone, and how far it is from what it was made from."""

    @abstractmethod
    def forwards(self, open_graph: OpenGraph) -> RunForward:
        """What runs forwards of up to 16 rows over a graph, behind kept tokens."""

    def ablate(self, manifest: Manifest, others: Mapping[str, Recipe], report: Report) -> Ablation:
        """Leave out each pass of the recipe that made a bundle's graph, and run other recipes, by name, beside it."""
        left_out = {f"without {name}": self.recipe.without(name) for name in dict.fromkeys(self.recipe.names)}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "whole"
            whole = _Made(self.recipe, folder, self.write(WHOLE, self.recipe, folder))
            made = {WHOLE: whole, AGAIN: whole}
            unchanged: list[str] = []
            refused: dict[str, str] = {}
            for number, (name, recipe) in enumerate({**left_out, **others}.items()):
                folder = Path(scratch) / str(number)
                try:
                    variant = _Made(recipe, folder, self.write(name, recipe, folder))
                except (InputError, BundleError) as error:
                    refused[name] = str(error)
                    continue
                if variant.files == whole.files:
                    unchanged.append(name)
                else:
                    made[name] = variant
            return Ablation(
                source=self.source,
                graph=self.graph,
                machine=processor_name(),
                threads=usable_cores(),
                reproduced=set(whole.files) <= set(manifest.files),
                variants=tuple(self._variants(made, report)),
                unchanged=tuple(unchanged),
                refused=refused,
            )

    def _variants(self, made: Mapping[str, _Made], report: Report) -> Iterator[Variant]:
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
                forward_ms={str(rows): round(statistics.median(ms), 3) for rows, ms in times[name].items()},
                over_whole={str(rows): _median_ratio(ms, times[WHOLE][rows]) for rows, ms in times[name].items()},
                row_invariance=row_invariance,
                agreement=agreement,
            )

    def _times(self, made: Mapping[str, _Made]) -> dict[str, ForwardTimes]:
        """Milliseconds of the forwards of every graph, over several sets of sessions."""
        times: dict[str, ForwardTimes] = {name: {rows: [] for rows in ROWS} for name in made}
        names = list(made)
        for opening in range(_OPENINGS):
            first = opening * len(names) // _OPENINGS
            order = (names[first:] + names[:first])[:: 1 if opening % 2 else -1]
            found = time_in_turns({name: self.forwards(made[name].open_graph) for name in order}, _ROUNDS, rows=ROWS)
            for name, rows in product(names, ROWS):
                times[name][rows] += found[name][rows]
        return times


class _Made:
    """A graph that was written, and how to open it."""

    def __init__(self, recipe: Recipe, folder: Path, open_graph: OpenGraph) -> None:
        self.recipe, self.open_graph = recipe, open_graph
        self.files = file_entries(folder)
        (path,) = folder.glob("*.onnx")
        self.num_nodes = len(ir.load(path).graph)


def _median_ratio(ms: Sequence[float], whole_ms: Sequence[float]) -> float:
    return round(statistics.median(mine / whole for mine, whole in zip(ms, whole_ms, strict=True)), 3)
