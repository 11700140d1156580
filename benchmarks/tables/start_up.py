"""What a start costs."""

from __future__ import annotations

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def start_up() -> str:
    """The import of the package, and the first token of a fresh process."""
    measured = read_json(XEON_AMX / "start-up.json")
    setting = paragraph(f"Measured on {measured['machine']}; figures are medians of {measured['repeats']} processes:")
    first_token = f"a process from its start to the first token, prompt of {measured['prompt_tokens']} tokens"
    rows = [
        ["the import of `dovetail_ort`", f"{measured['import_ms']:.0f}"],
        [first_token, f"{measured['first_token_ms']:.0f}"],
    ]
    return blocks(setting, table(["", "ms"], rows))
