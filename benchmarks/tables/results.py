"""The result files, and where each of them was measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.markdown import table
from benchmarks.result_files import RESULTS, read_json


def results() -> str:
    """Every result file with machine, date and versions."""
    rows = [_row(path) for path in sorted(RESULTS.glob("*/*.json"))]
    return table(["file", "machine", "date", "dovetail-ort", "onnxruntime"], rows, numbers=False)


def _row(path: Path) -> list[str]:
    found = read_json(path)
    machine = f"{found['machine']}; {found['gpu']}" if "gpu" in found else found["machine"]
    link = f"[{path.stem}](results/{path.parent.name}/{path.name})"
    return [link, machine, found["date"], found["dovetail_ort"], found["onnxruntime"]]
