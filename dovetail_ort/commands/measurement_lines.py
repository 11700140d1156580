"""What export measured, in words; `export` and `inspect` show it alike."""

from __future__ import annotations

from dovetail_ort_runtime.manifest import Agreement, Manifest, RowInvariance


def measurement_lines(manifest: Manifest) -> dict[str, str]:
    """Lines by their label."""
    return {
        "exact": "yes, on the machine that exported it" if manifest.target.exact else "NO",
        "row invariance": _describe_row_invariance(manifest.measurements.row_invariance),
        "agreement": _describe_agreement(manifest.measurements.agreement),
    }


def _describe_row_invariance(measured: RowInvariance) -> str:
    differing = f"NOT identical, logits differ by up to {measured.largest_difference:.3g}"
    sizes = ", ".join(map(str, measured.rows))
    return f"{'identical' if measured.identical else differing} at S = {sizes}, {measured.num_tokens} tokens"


def _describe_agreement(measured: Agreement) -> str:
    return (
        f"{measured.top1:.1%} same top token as the model, mean KL {measured.mean_kl:.4f} nats, "
        f"{measured.num_tokens} tokens"
    )
