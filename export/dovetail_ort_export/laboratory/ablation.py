"""What each pass of a target's recipe is worth: the target without it, measured in turns against the whole."""

from __future__ import annotations

import filecmp
import gc
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.agreement import LARGEST_MEAN_KL, checked_tokens, measure_target, reference_logits
from dovetail_ort_export.export_options import ExportOptions
from dovetail_ort_export.recipe import Recipe, Step, read_recipe
from dovetail_ort_export.source import load_source
from dovetail_ort_export.target_writer import Candidate, Report, TargetWriter
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle import sha256
from dovetail_ort_runtime.environment import processor_name, usable_cores
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import Manifest
from dovetail_ort_runtime.measurements import Agreement, RowInvariance
from dovetail_ort_runtime.pass_times import PassTimes, time_passes

ROWS: Final = (1, 2, 4, 8, 16)
WHOLE: Final = "the whole recipe"
AGAIN: Final = "the whole recipe again"
_ROUNDS: Final = 10
# Where a session's weights come to lie in memory changes its times by several per cent.
_OPENINGS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A target made by a recipe that differs.

    Attributes:
        name: what is different.
        passes: of its recipe.
        num_nodes: in its graph.
        num_bytes: of graph and weights.
        pass_ms: median milliseconds of a pass by its number of rows.
        over_whole: median of the time of a pass over that of the whole recipe's in the same round, over the rounds of
            four sets of sessions, each opened in another order.
        row_invariance: of its graph.
        agreement: with the original model.
    """

    name: str
    passes: tuple[str, ...]
    num_nodes: int
    num_bytes: int
    pass_ms: dict[str, float]
    over_whole: dict[str, float]
    row_invariance: RowInvariance
    agreement: Agreement

    @property
    def keeps_parity(self) -> bool:
        """Whether it is as close to the model as a target has to be."""
        return self.agreement.mean_kl <= LARGEST_MEAN_KL


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """All variants of one target.

    Attributes:
        source: name of the model.
        machine: processor.
        threads: of a pass.
        reproduced: whether the whole recipe gave the bundle's graph and weights, byte for byte.
        variants: the whole recipe first; the same files once more second, which tells how much of a ratio is chance.
        unchanged: variants whose files are those of the whole recipe, byte for byte.
        refused: variants that make no graph, and why.
    """

    source: str
    machine: str
    threads: int
    reproduced: bool
    variants: tuple[Variant, ...]
    unchanged: tuple[str, ...]
    refused: dict[str, str]


def ablate(manifest: Manifest, source: str, recipes: Sequence[Path] = (), report: Report = lambda _: None) -> Ablation:
    """Leave out each pass of the recipe that made a bundle's target, and run other recipes beside it.

    Args:
        manifest: of the bundle; it says by which recipe and calibration its target was made.
        source: the model it was made from.
        recipes: TOML files of further variants.
        report: is told each step in a line.

    Raises:
        InputError: the source is another model, the target was cut or calibrated on a file, or a recipe cannot be read.
        SourceError: the source cannot be read.
    """
    recipe = _recipe_of(manifest)
    others = {path.stem: read_recipe(path) for path in recipes}
    left_out = {f"without {name}": recipe.without(name) for name in dict.fromkeys(recipe.names)}
    report(f"loading {source}")
    loaded = load_source(source)
    tokens = checked_tokens(loaded, None, manifest.target.max_context)
    report(f"asking the original model about {len(tokens)} tokens")
    reference = reference_logits(loaded.model, tokens)
    with tempfile.TemporaryDirectory() as folder:
        writer = TargetWriter(loaded, _options_of(manifest), manifest.target.max_context, report)
        whole = writer.write(WHOLE, recipe, Path(folder) / "whole")
        if whole.entry.weights_sha256 != manifest.target.weights_sha256:
            raise InputError(f"the source must be the model of the bundle, got another one in {source!r}")
        reproduced = _is_of_bundle(whole, manifest)
        candidates: dict[str, Candidate] = {WHOLE: whole}
        unchanged: list[str] = []
        refused: dict[str, str] = {}
        for name, other in {**left_out, **others}.items():
            try:
                candidate = writer.write(name, other, Path(folder) / str(len(candidates)))
            except InputError as error:
                refused[name] = str(error)
                continue
            if _same_files(candidate, whole):
                unchanged.append(name)
            candidates[name] = candidate
        model_name = loaded.name
        del loaded, writer
        gc.collect()
        kept = {name: candidate for name, candidate in candidates.items() if name not in unchanged}
        variants = _measure({WHOLE: whole, AGAIN: whole, **kept}, tokens, reference, report)
    return Ablation(
        source=model_name,
        machine=processor_name(),
        threads=usable_cores(),
        reproduced=reproduced,
        variants=tuple(variants),
        unchanged=tuple(unchanged),
        refused=refused,
    )


def _recipe_of(manifest: Manifest) -> Recipe:
    target = manifest.target
    if not target.passes:
        raise InputError("the manifest must name the passes of the target, got none; export the bundle again")
    if target.front_graph is not None:
        raise InputError("the target must be in one piece, got one that was cut; export it without --gpu-layers")
    return Recipe(target.precision, tuple(map(Step.parse, target.passes)))


def _options_of(manifest: Manifest) -> ExportOptions:
    calibration = manifest.provenance.calibration
    if calibration is None:
        return ExportOptions()
    if calibration.text is not None:
        raise InputError(
            f"the calibration must be on text that the model wrote, got the file {calibration.text!r}; "
            "export the bundle without --calibration-text"
        )
    return ExportOptions(calibration_tokens=calibration.num_tokens, alpha=calibration.alpha, seed=calibration.seed)


def _same_files(one: Candidate, other: Candidate) -> bool:
    names = [path.name for path in one.folder.iterdir()]
    same, _, _ = filecmp.cmpfiles(one.folder, other.folder, names, shallow=False)
    return len(same) == len(names)


def _is_of_bundle(candidate: Candidate, manifest: Manifest) -> bool:
    stated = {entry.path: entry.sha256 for entry in manifest.files}
    return all(stated.get(path.name) == sha256(path) for path in candidate.folder.iterdir())


def _measure(
    candidates: dict[str, Candidate], tokens: TokenArray, reference: FloatArray, report: Report
) -> list[Variant]:
    report("comparing outputs")
    measured = {
        name: measure_target(candidate.open(len(tokens)), tokens, reference) for name, candidate in candidates.items()
    }
    report("timing passes in turns")
    times = _times(candidates, len(tokens))
    return [
        Variant(
            name=name,
            passes=candidate.entry.passes,
            num_nodes=sum(1 for _ in ir.load(candidate.folder / candidate.entry.graph).graph),
            num_bytes=candidate.num_bytes,
            pass_ms={str(rows): round(statistics.median(ms), 3) for rows, ms in times[name].items()},
            over_whole={str(rows): _median_ratio(ms, times[WHOLE][rows]) for rows, ms in times[name].items()},
            row_invariance=measured[name].row_invariance,
            agreement=measured[name].agreement,
        )
        for name, candidate in candidates.items()
    ]


def _times(candidates: dict[str, Candidate], num_tokens: int) -> dict[str, PassTimes]:
    """Milliseconds of the passes of every candidate, over several sets of sessions."""
    times: dict[str, PassTimes] = {name: {rows: [] for rows in ROWS} for name in candidates}
    names = list(candidates)
    for opening in range(_OPENINGS):
        first = opening * len(names) // _OPENINGS
        order = (names[first:] + names[:first])[:: 1 if opening % 2 else -1]
        for name, found in time_passes(
            {name: candidates[name].open(num_tokens) for name in order}, _ROUNDS, rows=ROWS
        ).items():
            for rows, ms in found.items():
                times[name][rows] += ms
    return times


def _median_ratio(ms: Sequence[float], whole_ms: Sequence[float]) -> float:
    return round(statistics.median(mine / whole for mine, whole in zip(ms, whole_ms, strict=True)), 3)
