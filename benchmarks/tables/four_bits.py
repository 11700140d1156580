"""Weights of 8 and of 4 bits: products of LLaMA-2-7B's shapes, and whole forwards."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def four_bits() -> str:
    """Tables of products and of whole models in 8 and in 4 bits."""
    measured = read_json(XEON_AMX / "four-bits.json")
    setting = paragraph(
        f"Measured on {measured['machine']}, with {measured['threads']} threads: single products of LLaMA-2-7B's "
        "shapes over different weights, which have 800 MB in 8 bits, and whole forwards of SmolLM2-135M-Instruct with "
        f"{measured['num_past']} tokens of context. 8 and 4 bits take turns; figures are medians, and the ratio is the "
        "median of the ratios of the turns:"
    )
    parts = {f"product {shape}": rows for shape, rows in measured["products"].items()}
    parts["SmolLM2, a forward"] = measured["forwards"]
    parts["its drafter, a forward"] = measured["drafters"]["forwards"]
    header = ["", "rows", "8 bits, ms", "4 bits, ms", "4 over 8", "8 bits over own one row", "4 bits over own one row"]
    times = table(header, [row for name, rows in parts.items() for row in _rows(name, rows)])
    return blocks(setting, times, _quality(measured))


def _quality(measured: dict[str, Any]) -> str:
    exports = measured["exports"]
    accepted = measured["drafters"]["accepted"]
    kinds = ("8_bits", "4_bits")
    prompts = accepted["4_bits"]["prompts"]
    rows = [
        ["target, MB", *(f"{exports[kind]['target_bytes'] / 1e6:.0f}" for kind in kinds)],
        ["mean KL divergence from the original, nats", *(f"{exports[kind]['mean_kl']:.4f}" for kind in kinds)],
        ["same likeliest token as the original", *(f"{exports[kind]['top1']:.1%}" for kind in kinds)],
        [
            f"draft tokens accepted, chains of four, {prompts} general prompts",
            *(f"{accepted[kind]['accepted']} of {accepted[kind]['drafted']}" for kind in kinds),
        ],
    ]
    return table(["", "8 bits", "4 bits"], rows)


def _rows(name: str, rows: dict[str, Any]) -> list[list[str]]:
    one = rows["1"]
    return [
        [
            name if number == "1" else "",
            number,
            f"{found['8_bits_ms']:.3f}",
            f"{found['4_bits_ms']:.3f}",
            f"{found['ratio']:.2f}",
            f"{found['8_bits_ms'] / one['8_bits_ms']:.2f}",
            f"{found['4_bits_ms'] / one['4_bits_ms']:.2f}",
        ]
        for number, found in rows.items()
    ]
