"""The frozen example."""

from __future__ import annotations

from benchmarks.markdown import paragraph
from benchmarks.result_files import XEON_AMX, read_json


def frozen_application() -> str:
    """Its size and how soon it answers."""
    measured = read_json(XEON_AMX / "frozen.json")
    help_ms = measured["start_to_help_ms"][1]
    text_ms = measured["start_to_first_text_ms"][1]
    return paragraph(
        f"{measured['machine']}: the program has {measured['application_bytes'] / 1e6:.0f} MB without its bundle, and "
        f"takes {text_ms / 1e3:.1f} s from its start to the first text, {help_ms / 1e3:.2f} s to its help; the very "
        f"first start took {measured['first_start_to_first_text_ms'] / 1e3:.1f} s to the first text (medians of "
        f"{measured['num_starts']} starts)."
    )
