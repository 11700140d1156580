"""What is in a bundle, in words, so that all commands that write or show a bundle say it in the same way."""

from __future__ import annotations

from typing import Final

from dovetail_ort_runtime.bundle.formats import PORTABLE
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
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


def describe_drafter(manifest: Manifest) -> str:
    """One line about the bundle's draft head."""
    drafter = manifest.drafter
    if drafter is None:
        return "none, prompt lookup only"
    num_bytes = sum(entry.num_bytes for entry in manifest.files if entry.path.startswith(drafter.graph))
    return (
        f"{drafter.fusion}, {drafter.num_layers} block{'s' * (drafter.num_layers > 1)}, "
        f"{drafter.num_parameters / 1e6:.1f} million parameters, {drafter.precision}, "
        f"{drafter.draft_vocabulary_size} tokens, {num_bytes / 1e6:.1f} MB"
    )


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
