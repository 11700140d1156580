"""Today's native bundle beside the commit before the kernels."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from benchmarks.kernels_comparison.sides import AFTER, BEFORE
from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json

SUITES: Final = {"humaneval": "HumanEval", "general": "general prompts"}


def kernels_forwards() -> str:
    """Whole forwards by rows."""
    measured = _part("forwards")
    rows = []
    for number, found in measured["rows"].items():
        single = found["over_own_single_row"]
        rows.append(
            [
                number,
                *(f"{found['ms'][side]['median']:.2f}" for side in (BEFORE, AFTER)),
                f"{found['after_over_before']['median']:.2f}",
                *(f"{single[side]['median']:.2f}" for side in (BEFORE, AFTER)),
                f"{found['share_of_read_pace']['median']:.0%}",
            ]
        )
    setting = paragraph(
        f"Measured on {measured['machine']}, with {measured['threads']} threads and {measured['num_past']} tokens of "
        "context; all rows are scored. Both sides take turns; figures are medians of "
        f"{measured['processes']} processes of each side. A plain sum over the weights reads "
        f"{measured['read_gigabytes_per_second']['median']:.0f} GB/s:"
    )
    header = ["rows", f"{BEFORE}, ms", "native, ms", "native over it", f"{BEFORE} over own one row"]
    header += ["native over own one row", "native's pace over that of the sum"]
    return blocks(setting, table(header, rows))


def kernels_speed() -> str:
    """Tokens per second, and other figures that can be better or worse, of the parts that were measured."""
    rows: list[list[str]] = []
    for part in (_contexts, _suites, _training_text, _loading, _drafting):
        with contextlib.suppress(FileNotFoundError):
            rows += part()
    return table(["", BEFORE, AFTER, f"native over {BEFORE}"], rows)


def weight_placement() -> str:
    """Forwards over weights that are copied into large pages, beside weights in the mapped file."""
    measured = read_json(XEON_AMX / "weight-placement.json")
    seconds = measured["seconds_to_first_256_tokens"]
    setting = paragraph(
        f"Measured on {measured['machine']}, with {measured['threads']} threads and {measured['num_past']} tokens of "
        f"context; figures are medians of {measured['rounds']} rounds in turns. Loading and reading a prompt of 256 "
        f"tokens take {seconds['map']:.2f} s with mapped weights and {seconds['copy']:.2f} s with copied ones:"
    )
    rows = [
        [number, f"{one['map_ms']:.2f}", f"{one['copy_ms']:.2f}", f"{one['copy_over_map']:.2f}"]
        for number, one in measured["rows"].items()
    ]
    return blocks(setting, table(["rows", "mapped, ms", "copied, ms", "copied over mapped"], rows))


def kernels_suites() -> str:
    """What speculation brings on either side."""
    rows = []
    for suite, label in SUITES.items():
        found = _part(suite)
        slowest = found["slowest_prompt"]
        rows.append(
            [
                label,
                *(f"{found['speedup'][side]:.2f}x" for side in (BEFORE, AFTER)),
                *(f"{found['tokens_a_round'][side]:.2f}" for side in (BEFORE, AFTER)),
                f"{slowest['speedup']:.2f}x",
                f"{found['identical'][AFTER]} of {found['answers']}",
            ]
        )
    header = ["suite", f"speedup, {BEFORE}", "speedup, native", f"tokens a round, {BEFORE}", "tokens a round, native"]
    header += ["native, slowest prompt", "native, identical answers"]
    return table(header, rows)


def _part(name: str) -> dict[str, Any]:
    return read_json(XEON_AMX / f"kernels-{name}.json")


def _contexts() -> list[list[str]]:
    return [
        _row(f"{length} tokens of context, {mode}, tokens/s", found[mode]["tokens_per_second"], found[mode], "{:.0f}")
        for length, found in _part("contexts")["contexts"].items()
        for mode in ("baseline", "speculative")
    ]


def _suites() -> list[list[str]]:
    rows = []
    for suite, label in SUITES.items():
        found = _part(suite)
        for mode in ("baseline", "speculative"):
            rates = [found["tokens_per_second"][side][mode] for side in (BEFORE, AFTER)]
            cells = [f"{rate:.0f}" for rate in rates]
            rows.append([f"{label}, {mode}, tokens/s", *cells, f"{found[f'{mode}_after_over_before']:.2f}"])
    return rows


def _training_text() -> list[list[str]]:
    found = _part("training-text")
    return [_row("training text, answer tokens/s", found["answer_tokens_per_second"], found, "{:.0f}")]


def _loading() -> list[list[str]]:
    found = _part("loading")
    rows = [
        _row(f"load to the first token, {state} page cache, s", one["seconds_to_first_token"], one, "{:.2f}")
        for state, one in ((state, found[state]) for state in ("warm", "cold"))
    ]
    memory = [found["megabytes_over_import"][side]["median"] for side in (BEFORE, AFTER)]
    label = "resident memory over a bare import of onnxruntime, MB"
    return [*rows, [label, *(f"{size:.0f}" for size in memory), f"{memory[1] / memory[0]:.2f}"]]


def _drafting() -> list[list[str]]:
    sides = _part("drafting")["sides"]
    ms = [sides[side]["draft_ms"]["median"] for side in (BEFORE, AFTER)]
    shares = [sides[side]["over_single_row"]["median"] for side in (BEFORE, AFTER)]
    return [
        ["drafting four tokens, ms", *(f"{one:.2f}" for one in ms), f"{ms[1] / ms[0]:.2f}"],
        ["drafting four tokens over a forward of one row", *(f"{share:.2f}" for share in shares), ""],
    ]


def _row(label: str, sides: dict[str, Any], found: dict[str, Any], form: str) -> list[str]:
    cells = [form.format(sides[side]["median"]) for side in (BEFORE, AFTER)]
    return [label, *cells, f"{found['after_over_before']['median']:.2f}"]
