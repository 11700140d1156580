"""The table of a start."""

from __future__ import annotations

import importlib
import json

table = importlib.import_module("benchmarks.tables.start_up")


def test_the_table_has_the_figures_of_the_result_file(tmp_path, monkeypatch):
    found = {"machine": "Xeon", "repeats": 9, "prompt_tokens": 50, "import_ms": 71.4, "first_token_ms": 412.6}
    (tmp_path / "start-up.json").write_text(json.dumps(found))
    monkeypatch.setattr(table, "XEON_AMX", tmp_path)
    rows = [line.strip("| ").split(" | ")[-1] for line in table.start_up().splitlines() if line.startswith("| ")]
    assert rows == ["ms", "71", "413"]
