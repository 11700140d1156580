"""Decoding with speculation and without, prompt by prompt."""

from __future__ import annotations

import math
from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json

SUITES: Final = {
    "humaneval": "HumanEval",
    "general": "general prompts",
    "defeating": "random letters, mixed scripts, languages that the model hardly knows",
}


def at_a_glance() -> str:
    """Four rows: without speculation, with it on code and on other prompts, and the best other engine."""
    code = read_json(XEON_AMX / "humaneval.json")
    general = read_json(XEON_AMX / "general.json")
    rows = [
        ["baseline: HumanEval without speculation", _rate(code, "baseline"), "", ""],
        _speculative_row("HumanEval", code),
        _speculative_row("general prompts", general),
        _best_peer_row(),
    ]
    return blocks(_setting(code), table(["", "tokens/s", "speedup", "identical answers"], rows))


def _rate(found: dict[str, Any], mode: str) -> str:
    return f"{found['modes'][mode]['decode_tokens_per_second']:.0f}"


def _speculative_row(label: str, found: dict[str, Any]) -> list[str]:
    identical = f"{found['num_identical']} of {found['num_prompts']}"
    return [f"with speculation: {label}", _rate(found, "speculative"), f"{found['speedup']:.2f}x", identical]


def _best_peer_row() -> list[str]:
    """The fastest mode of all other engines on some prompts of HumanEval."""
    measured = read_json(XEON_AMX / "peers.json")
    others = {
        (peer, mode): times["median_decode_tokens_per_second"]
        for peer, found in measured["peers"].items()
        for mode, times in found["modes"].items()
        if not peer.startswith("dovetail-ort")
    }
    peer, mode = max(others, key=others.__getitem__)
    times = measured["peers"][peer]["modes"][mode]
    ours = measured["peers"]["dovetail-ort"]["modes"]["speculative"]["median_decode_tokens_per_second"]
    prompts = f"the same {measured['num_prompts']} prompts of HumanEval"
    label = f"fastest other engine: {peer} ({mode}); on {prompts} dovetail-ort has {ours:.0f}"
    num_identical = measured["num_prompts"] - times["prompts_that_differ_from_own_baseline"]
    return [label, f"{others[peer, mode]:.0f}", "", f"{num_identical} of {measured['num_prompts']}"]


def humaneval() -> str:
    """Tokens per second of both ways to decode, and what speculation brings, by suite."""
    rows = []
    for suite, label in SUITES.items():
        found = read_json(XEON_AMX / f"{suite}.json")
        rows.append(
            [
                label,
                f"{found['num_prompts']}",
                _rate(found, "baseline"),
                _rate(found, "speculative"),
                f"{found['speedup']:.2f}x",
                "{:.2f}x to {:.2f}x".format(*found["speedup_quartiles"]),
                f"{min(_speedups(found['prompts'])):.2f}x",
                f"{found['accepted_length']:.2f}",
                f"{found['num_identical']} of {found['num_prompts']}",
            ]
        )
    header = ["suite", "prompts", "baseline, tokens/s", "speculative", "speedup", "by prompt, quartiles"]
    header += ["slowest prompt", "tokens a round", "identical answers"]
    return blocks(_setting(read_json(XEON_AMX / "humaneval.json")), table(header, rows))


def _setting(found: dict[str, Any]) -> str:
    sizes = {session["name"]: session["weight_bytes"] / 1e6 for session in found["sessions"]}
    return paragraph(
        f"SmolLM2-135M-Instruct in INT8 ({sizes['target']:.0f} MB; its drafter has {sizes['drafter']:.0f} MB more) on "
        f"{found['machine']}, with onnxruntime {found['onnxruntime']}. Answers are greedy and have up to "
        f"{found['max_new_tokens']} tokens. The two ways to decode take turns, prompt by prompt:"
    )


def _speedups(prompts: list[dict[str, Any]]) -> list[float]:
    """By prompt; an answer of one token has no time of decoding."""
    rates = [prompt["decode_tokens_per_second"] for prompt in prompts]
    return [rate["speculative"] / rate["baseline"] if rate["baseline"] else math.inf for rate in rates]
