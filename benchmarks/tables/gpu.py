"""What a GPU brings: `gpu.json` of every machine that has one, and `not measured` for all that it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import RESULTS, read_json

NOT_MEASURED: Final = "not measured"
Steps = dict[str, Any]
Cell = Callable[[Any], str]
_HUMANEVAL: Final = {
    "drafter-on-cuda": "drafter on CUDA, all cores",
    "drafter-on-cuda-2-threads": "drafter on CUDA, 2 threads of many cores",
    "drafter-on-cuda-2-cores": "drafter on CUDA, 2 cores",
    "drafter-on-cuda-2-cores-1-thread": "drafter on CUDA, 2 cores, one of them for launching",
    "drafter-on-cuda-chain-4": "drafter on CUDA, all cores, always 4 tokens",
    "drafter-on-cpu": "drafter on the CPU, all cores",
    "drafter-on-cpu-2-cores": "drafter on the CPU, 2 cores",
    "blocks-on-cuda": "drafter and half of the target on CUDA, all cores",
    "blocks-on-cuda-2-threads": "drafter and half of the target on CUDA, 2 threads",
}
_DRAFTERS: Final = {
    "forwards-cuda": "shipped, 1 block",
    "paper-1-block": "LLaMA-2-7B's size, 1 block",
    "paper-5-blocks": "LLaMA-2-7B's size, 5 blocks, 3.2 GB",
}
_THREADS: Final = (1, 2, 4, 8, 16)
_FRONT_ROWS: Final = (2, 3, 5)


def gpu() -> str:
    """Tables of every machine that has results."""
    paths = sorted(RESULTS.glob("*/gpu.json"))
    return blocks(*(_machine(path) for path in paths)) if paths else _tables({})


def _machine(path: Path) -> str:
    found = read_json(path)
    setting = paragraph(
        f"Measured on {found['machine']}, with {found['gpu']}, driver {found['driver']} and onnxruntime-gpu "
        f"{found['onnxruntime']}:"
    )
    return blocks(setting, _tables(found["steps"]))


def _tables(steps: Steps) -> str:
    return blocks(_humaneval(steps), _drafters(steps), _others(steps))


def _humaneval(steps: Steps) -> str:
    cells: list[Cell] = [
        lambda found: f"{found['modes']['speculative']['decode_tokens_per_second']:.0f}",
        lambda found: f"{found['speedup']:.2f}x",
        lambda found: f"{found['accepted_length']:.2f}",
        lambda found: f"{100 * found['shares']['draft']:.0f}%",
        lambda found: f"{found['num_identical']} of {found['num_prompts']}",
        lambda found: _megabytes(max(session["vram_bytes"] or 0 for session in found["sessions"])),
    ]
    rows = [[label, *_cells(steps, step, cells)] for step, label in _HUMANEVAL.items()]
    header = [
        "HumanEval",
        "tokens/s",
        "over the baseline",
        "tokens a round",
        "drafting",
        "identical",
        "VRAM, MB",
    ]
    return table(header, rows)


def _drafters(steps: Steps) -> str:
    shapes = {f"chain {number}": "for chains" for number in (3, 5, 7)}
    shapes |= dict.fromkeys(("tree 7/4/10", "tree 16/7/10"), "for trees")
    cells: list[Cell] = [_draft_cell(graph, shape) for shape, graph in shapes.items()]
    cells.append(lambda found: _megabytes(found["for chains"]["vram_bytes"]))
    rows = [[label, *_cells(steps, step, cells)] for step, label in _DRAFTERS.items()]
    return table(["drafter on CUDA, ms", *shapes, "VRAM, MB"], rows)


def _draft_cell(graph: str, shape: str) -> Cell:
    return lambda found: f"{found[graph]['drafts'][shape]['median_ms']:.2f}"


def _others(steps: Steps) -> str:
    figures: list[tuple[str, str, Cell]] = [
        ("tokens/s and drafting's part of the time, drafting ahead, all cores", "ahead", _mode("ahead")),
        ("the same, not drafting ahead", "ahead", _mode("in turn")),
        ("the same, drafting ahead, 2 threads", "ahead-2-threads", _mode("ahead")),
        ("the same, not drafting ahead, 2 threads", "ahead-2-threads", _mode("in turn")),
    ]
    for kind, label in (("as it is", "without padding"), ("padded", "padded to 8 rows")):
        figures += [
            (f"blocks on CUDA, {rows} rows against 8, {label}", "front-exactness", _front_cell(kind, rows))
            for rows in _FRONT_ROWS
        ]
    figures += [
        (f"target on the CPU, ms of 1, 2, 4 and 8 rows, {number} threads", "cpu-threads", _threads_cell(number))
        for number in _THREADS
    ]
    figures += [
        (
            "a chain of 4 drafted again and again, and each time after a forward of the target, ms",
            "between-chains",
            _between,
        ),
        ("a drafter's row on CUDA, and captured as a graph, ms", "cuda-graph", _captured),
        ("training on the GPU, answer tokens/s written and trained on", "training", _training),
    ]
    return table(["", "figure"], [[label, *_cells(steps, step, [cell])] for label, step, cell in figures])


def _mode(mode: str) -> Cell:
    return lambda found: f"{found[mode]['tokens_per_second']:.0f}, {100 * found[mode]['draft_share']:.0f}%"


def _front_cell(kind: str, rows: int) -> Cell:
    def cell(found: Any) -> str:
        compared = found[kind][str(rows)]
        return "identical" if compared["identical"] else f"up to {compared['largest_difference']:.2g} in logits"

    return cell


def _threads_cell(number: int) -> Cell:
    return lambda found: ", ".join(f"{one['median_ms']:.1f}" for one in found["forwards"][str(number)].values())


def _captured(found: Any) -> str:
    times = [found[name].get("median_ms") for name in ("1 row", "1 row, captured")]
    return " and ".join("refused" if time is None else f"{time:.3f}" for time in times)


def _between(found: Any) -> str:
    return " and ".join(f"{found['between'][name]['chain_ms']:.2f}" for name in ("nothing", "a forward of the target"))


def _training(found: Any) -> str:
    return " and ".join(f"{found['answer_tokens'] / found[name]:.0f}" for name in ("writing_s", "training_s"))


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.0f}"


def _cells(steps: Steps, step: str, cells: Sequence[Cell]) -> list[str]:
    """All cells of one step, or none."""
    found = steps.get(step, {}).get("result")
    if found is None:
        return [NOT_MEASURED] * len(cells)
    return [_cell(found, cell) for cell in cells]


def _cell(found: Any, cell: Cell) -> str:
    try:
        return cell(found)
    except KeyError:  # 16 threads on 8 cores
        return NOT_MEASURED
