"""docs/security.md states the limits that the code has and the fuzzing runs that were recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dovetail_ort_runtime.bundle import bundle, graph_check, graph_entries
from dovetail_ort_runtime.text import chat_template, template_budget, tokenizer

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


@pytest.mark.parametrize(
    "statement",
    [
        f"at most {bundle.LARGEST_TEXT_BYTES >> 20} MiB of JSON",
        f"at most {graph_entries.MOST_ROWS:,} rows a forward",
        f"SHA-256 of all files up to {bundle.SMALL_FILE_BYTES >> 20} MiB",
        f"a file of more than {graph_check.LARGEST_GRAPH_BYTES >> 20} MiB",
        f"| template | {chat_template.LARGEST_TEMPLATE:,} characters |",
        f"| time | {template_budget.SECONDS:g} seconds |",
        f"{template_budget.WORK:,} and {template_budget.WORK_PER_CHARACTER} for each character of the conversation",
        f"| output | {template_budget.OUTPUT:,} characters and {template_budget.OUTPUT_PER_CHARACTER} for each",
        f"may not make a text more than {tokenizer.LARGEST_GROWTH} times as long",
    ],
)
def test_a_limit_is_the_codes(statement):
    assert statement in TEXT


def test_the_fuzzing_table_quotes_the_recorded_runs():
    runs = json.loads((REPOSITORY / "tests" / "fuzzing" / "runs.json").read_text(encoding="utf-8"))
    for run in runs:
        cells = (run["target"], f"{run['executions']:,}", run["edges"], run["inputs_kept"], run["slowest_input_s"])
        cells += (run["peak_rss_mb"], len(run["findings"]))
        assert f"| {' | '.join(map(str, cells))} |" in PAGE
        assert f"{run['seconds']} seconds a target" in PAGE
