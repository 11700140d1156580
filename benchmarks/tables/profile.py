"""Where the time of a forward goes."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def profile() -> str:
    """Operators of the target by their time, and the pace at which they read weights and cache."""
    measured = read_json(XEON_AMX / "profile.json")
    bandwidth = measured["read_bandwidth"]
    setting = paragraph(
        f"Measured on {measured['machine']}, with {measured['threads']} threads and {measured['num_past']} tokens of "
        f"context, under ONNX Runtime's profiler. The machine reads {bandwidth / 1e9:.0f} GB/s:"
    )
    return blocks(setting, *(_forward(one, bandwidth) for one in measured["forwards"]))


def _forward(one: dict[str, Any], bandwidth: float) -> str:
    rows = [
        [
            share["name"],
            f"{share['num_nodes']}",
            f"{share['kernel_ms']:.2f}",
            f"{share['bytes_read'] / 1e6:.1f}",
            f"{share['bytes_per_second'] / 1e9:.0f}",
            f"{share['bytes_per_second'] / bandwidth:.0%}",
        ]
        for share in one["operators"]
        if share["kernel_ms"] >= 0.01 * one["forward_ms"]
    ]
    rows.append(
        [
            "the forward, not profiled",
            "",
            f"{one['forward_ms']:.2f}",
            f"{one['bytes_read'] / 1e6:.1f}",
            f"{one['bytes_per_second'] / 1e9:.0f}",
            f"{one['bytes_per_second'] / bandwidth:.0%}",
        ]
    )
    label = f"{one['rows']} row{'s' if one['rows'] > 1 else ''}"
    return table([label, "nodes", "ms", "MB read", "GB/s", "of what the machine reads"], rows)
