"""The trace by `torch.export` beside the legacy exporter's."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json

EXPORTERS: Final = ("legacy", "torch.export")


def torch_export_refusals() -> str:
    """What `torch.export` says to each attempt that fails."""
    measured = _measured()
    rows = [[attempt, f"`{message.replace('`', '')}`"] for attempt, message in measured["refusals"].items()]
    return table(["tried", "refused with"], rows, numbers=False)


def torch_export_graphs() -> str:
    """Whether both graphs are the same."""
    measured = _measured()
    rows = []
    for name, traces in measured["traces"].items():
        legacy = traces["legacy"]["nodes"]
        successor = traces["torch.export"]["nodes"]
        kinds = sorted(kind for kind in {*legacy, *successor} if legacy.get(kind) != successor.get(kind))
        others = ", ".join(f"{kind} {legacy.get(kind, 0)} and {successor.get(kind, 0)}" for kind in kinds)
        total = f"{sum(legacy.values())} and {sum(successor.values())}"
        rows.append([name, total, others, *_differences(measured["compared"].get(name))])
    header = [
        "skeleton of",
        "nodes",
        "of these differ in number",
        "largest difference of logits, fp32",
        "INT8, portable",
    ]
    return table(header, rows, numbers=False)


def _differences(compared: dict[str, Any] | None) -> list[str]:
    if compared is None:
        return ["not run", "not run"]
    return [f"{compared[recipe]['largest_difference']:g}" for recipe in ("fp32", "portable")]


def torch_export_times() -> str:
    """Seconds and memory of both traces."""
    measured = _measured()
    setting = paragraph(
        f"Measured on {measured['machine']}, with one thread, {_versions(measured['packages'])}. Figures are medians "
        f"of {measured['processes']} processes: processor time of the first trace, which imports what the exporter "
        "needs, and of a second trace. Memory is what both traces add to the peak of the process."
    )
    rows = []
    for name, traces in measured["traces"].items():
        row = [name]
        for exporter in EXPORTERS:
            found = traces[exporter]
            row += [f"{found['first_cpu_s']:.2f}", f"{found['second_cpu_s']:.2f}", f"{found['memory_mb']:.0f}"]
        rows.append(row)
    header = ["skeleton of", "legacy, first, s", "again, s", "MB", "torch.export, first, s", "again, s", "MB"]
    return blocks(setting, table(header, rows))


def _measured() -> dict[str, Any]:
    return read_json(XEON_AMX / "torch-export.json")


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())
