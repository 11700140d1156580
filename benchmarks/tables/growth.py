"""Speed as the text grows."""

from __future__ import annotations

from typing import Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json

MODES: Final = ("baseline", "speculative")


def growth() -> str:
    """Tokens per second at each length of context."""
    measured = read_json(XEON_AMX / "growth.json")
    rows = []
    for length, found in measured["contexts"].items():
        rates = [f"{found['modes'][mode]['tokens_per_second']:.0f}" for mode in MODES]
        speculative = found["modes"]["speculative"]
        rows.append(
            [
                length,
                *rates,
                f"{speculative['tokens_a_round']:.2f}",
                f"{speculative['megabytes_per_token']:.0f}",
                f"{found['identical']} of {measured['num_texts']}",
            ]
        )
    setting = paragraph(f"Tokens per second of {measured['max_new_tokens']} new tokens on {measured['machine']}:")
    header = ["tokens of context", *MODES, "tokens a round", "MB read a token", "identical answers"]
    return blocks(setting, table(header, rows))
