"""Text about the frozen example."""

from __future__ import annotations

from benchmarks.markdown import paragraph
from benchmarks.result_files import XEON_AMX, read_json


def frozen_application() -> str:
    """Size and start time of the frozen example."""
    measured = read_json(XEON_AMX / "frozen.json")
    help_ms = measured["start_to_help_ms"][1]
    text_ms = measured["start_to_first_text_ms"][1]
    return paragraph(
        f"Measured on {measured['machine']}, medians of {measured['num_starts']} starts: the program has "
        f"{measured['application_bytes'] / 1e6:.0f} MB without its bundle. It takes {text_ms / 1e3:.1f} s from its "
        f"start to the first text, and {help_ms / 1e3:.2f} s to its help. The very first start took "
        f"{measured['first_start_to_first_text_ms'] / 1e3:.1f} s to the first text."
    )
