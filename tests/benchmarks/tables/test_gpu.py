"""The tables of docs/gpu.md."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks.gpu.plan import FULL, plan

table = importlib.import_module("benchmarks.tables.gpu")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """`results(steps)`: the rows with these steps of one machine, by their first cell."""
    monkeypatch.setattr(table, "RESULTS", tmp_path)

    def render(steps=None):
        if steps is not None:
            (tmp_path / "machine").mkdir()
            found = {"machine": "Xeon", "gpu": "H100", "driver": "580.1", "onnxruntime": "1.31.1", "steps": steps}
            (tmp_path / "machine" / "gpu.json").write_text(json.dumps(found))
        lines = [line for line in table.gpu().splitlines() if line.startswith("| ")]
        return {cells[0]: cells[1:] for line in lines if (cells := line.strip("| ").split(" | "))}

    return render


def test_without_results_every_row_says_so(results):
    rows = results()
    headers = {"HumanEval", "drafter on CUDA, ms", "figure"}
    assert all(set(cells) == {"not measured"} for label, cells in rows.items() if label not in headers)
    assert len(rows) > len(headers)


def test_a_step_that_was_measured_fills_its_row_and_no_other(results):
    session = {"vram_bytes": 812_000_000}
    bench = {
        "modes": {"speculative": {"decode_tokens_per_second": 312.4}},
        "speedup": 2.513,
        "accepted_length": 3.4,
        "shares": {"draft": 0.083},
        "num_identical": 10,
        "num_prompts": 10,
        "sessions": [{"vram_bytes": None}, session],
    }
    rows = results({"drafter-on-cuda": {"status": 0, "result": bench}})
    assert rows["drafter on CUDA, all cores"] == ["312", "2.51x", "3.40", "8%", "10 of 10", "812"]
    assert set(rows["drafter on the CPU, all cores"]) == {"not measured"}


def test_a_step_that_failed_without_a_result_is_not_measured(results):
    rows = results({"drafter-on-cuda": {"status": 1, "output": "", "errors": "reason"}})
    assert set(rows["drafter on CUDA, all cores"]) == {"not measured"}


def test_every_row_is_of_a_step_that_is_planned():
    planned = {step.name for step in plan(FULL, Path("source"), Path("head"), Path("bundles"))}
    assert {*table._HUMANEVAL, *table._DRAFTERS} <= planned
