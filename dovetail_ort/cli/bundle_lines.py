"""What is in a bundle, in words, so that all commands that write or show a bundle say it in the same way."""

from __future__ import annotations

from typing import Final

from dovetail_ort_runtime.bundle.formats import PORTABLE
from dovetail_ort_runtime.bundle.graph_entries import AcceptanceRow, HeadOrigin, TargetEntry
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.bundle.measurements import Agreement, RowInvariance, WitnessReport

_COMPARED: Final = {"model": "the model", "graph": "the graph before the last change"}


def page(lines: dict[str, str]) -> str:
    """A page of lines, each after its label."""
    return "\n".join(f"{label:<15} {line}" for label, line in lines.items())


def measurement_lines(manifest: Manifest) -> dict[str, str]:
    """What was measured at export, as lines by their label."""
    witness = manifest.measurements.witness
    lines = {
        "exact": "yes, on the machine that exported it" if manifest.target.exact else "NO",
        "row invariance": _describe_row_invariance(manifest.measurements.row_invariance),
        "agreement": _describe_agreement(manifest.measurements.agreement),
    }
    if witness is not None:
        lines["witness"] = _describe_witness(witness)
    return lines


def number_format(target: TargetEntry) -> str:
    """The number format of the weights, the operators of the graph, and a quantised cache."""
    graphs = f"{target.precision}, {target.format}"
    if target.portable_graph is not None:
        graphs += f" and {PORTABLE}"
    return f"{graphs}, cache in int8" if "quantize-cache" in target.passes else graphs


def drafter_lines(manifest: Manifest) -> dict[str, str]:
    """The bundle's draft head, where it comes from and what it brings, as lines by their label."""
    drafter = manifest.drafter
    lines = {"drafter": describe_drafter(manifest)}
    if drafter is None:
        return lines
    if drafter.origin is not None:
        lines["head"] = _describe_origin(drafter.origin)
    if drafter.taps is not None:
        levels = ", ".join(map(str, drafter.taps.levels))
        lines["levels"] = f"{levels} of the target, in a graph of their own"
    if drafter.acceptance:
        lines["accepted"] = "; ".join(map(_describe_acceptance, drafter.acceptance))
    return lines


def describe_drafter(manifest: Manifest) -> str:
    """One line about the bundle's draft head."""
    drafter = manifest.drafter
    if drafter is None:
        return "none, prompt lookup only"
    num_bytes = sum(entry.num_bytes for entry in manifest.files if entry.path.startswith(drafter.graphs))
    return (
        f"{drafter.fusion}, {drafter.num_layers} block{'s' * (drafter.num_layers > 1)}, "
        f"{drafter.num_parameters / 1e6:.1f} million parameters, {drafter.precision}, "
        f"{drafter.draft_vocabulary_size} tokens, {num_bytes / 1e6:.1f} MB"
    )


def _describe_origin(origin: HeadOrigin) -> str:
    revision = "" if origin.revision is None else f" at {origin.revision[:12]}"
    return f"{origin.name}{revision}, form {origin.form}, licence {origin.licence or 'not stated'}"


def _describe_acceptance(row: AcceptanceRow) -> str:
    shares = " ".join(f"{share:.0%}" for share in row.by_depth)
    return f"{row.text} {shares}"


def _describe_row_invariance(measured: RowInvariance) -> str:
    sizes = ", ".join(map(str, measured.rows))
    result = "identical"
    if not measured.identical:
        result = f"NOT identical, logits differ by up to {measured.largest_difference:.3g}"
    return f"{result} at S = {sizes}, {measured.num_tokens} tokens"


def _describe_agreement(measured: Agreement) -> str:
    other = _COMPARED.get(measured.compared_with, "what it came from")  # a foreign manifest may say anything
    return (
        f"{measured.top1:.1%} same top token as {other}, mean KL {measured.mean_kl:.4f} nats, "
        f"{measured.num_tokens} tokens"
    )


def _describe_witness(measured: WitnessReport) -> str:
    return (
        f"model within {measured.model_difference:.1e} of the logits' spread; graph {measured.graph_top1:.1%} same top "
        f"token, KL {measured.graph_mean_kl:.4f}; {len(measured.positions)} tokens at positions up to "
        f"{max(measured.positions, default=0)}, recomputed from the files in {measured.seconds:.1f} s"
    )
