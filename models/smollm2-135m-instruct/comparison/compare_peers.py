"""dovetail-ort and its peers on the same prompts, prompt by prompt in turns, each in a process of its own.

    python compare_peers.py BUNDLE PEERS [NUM_PROMPTS] > result.json

PEERS is the directory that `make compare` fills: environments and models. Every system answers every prompt in all its
modes, on the same number of threads; the order changes from prompt to prompt. Fewer prompts than the suite has, two or
more, are spread over it. What the others' processes use meanwhile is measured too: it must be next to nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from peers.peer_process import PeerProcess
from peers.peer_program import PeerAnswer, PeerOptions
from peers.peer_setups import peer_setups

from dovetail_ort.suites import HUMANEVAL, load_suite
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.machine.environment import processor_name, usable_cores

MAX_NEW_TOKENS: Final = 128
# Threads of the last turn that still spin have stopped by then.
PAUSE_SECONDS: Final = 0.1
OURS: Final = ("dovetail-ort", "speculative")
PLAIN: Final = "plain"
AS_BUILT: Final = ", as built"

System = tuple[str, str]


def main(bundle_path: str, built: str, num_prompts: int | None) -> None:
    """Run everything and print JSON."""
    bundle = Bundle(bundle_path)
    options = PeerOptions(
        model=Path(bundle_path),
        threads=usable_cores(),
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_ids=bundle.manifest.generation.eos_token_ids,
    )
    prompts = _prompts(bundle, num_prompts)
    setups = peer_setups(Path(bundle_path), Path(built))
    with contextlib.ExitStack() as stack:
        peers = {}
        for name, setup in setups.items():
            peers[name] = PeerProcess(setup, replace(options, model=setup.model))
            stack.callback(peers[name].close)
            for mode in peers[name].modes:
                peers[name].answer(mode, prompts[0])  # not counted
        answers, idle_shares = _take_turns(peers, prompts)
    result = {
        "suite": HUMANEVAL,
        "num_prompts": len(prompts),
        "max_new_tokens": MAX_NEW_TOKENS,
        "threads": options.threads,
        "machine": processor_name(),
        "date": datetime.date.today().isoformat(),
        "ours": " ".join(OURS),
        "peers": {
            name: {
                "weights": setups[name].weights,
                "versions": peer.versions,
                "idle_cpu_share": round(idle_shares[name], 4),
                "modes": {mode: _summary(answers, (name, mode)) for mode in peer.modes},
            }
            for name, peer in peers.items()
        },
    }
    print(json.dumps(result, indent=2))


def _prompts(bundle: Bundle, num_prompts: int | None) -> list[list[int]]:
    tokenizer, template = bundle.tokenizer(), bundle.chat_template()
    assert template is not None
    suite = load_suite(HUMANEVAL)
    count = num_prompts or len(suite)
    chosen = [suite[number * len(suite) // count] for number in range(count)]
    return [tokenizer.encode(template.render(prompt.messages), add_special_tokens=False) for prompt in chosen]


def _take_turns(
    peers: dict[str, PeerProcess], prompts: Sequence[Sequence[int]]
) -> tuple[dict[System, list[PeerAnswer]], dict[str, float]]:
    """All answers, and for each peer the processor time that it took of the others' turns, as a share of them."""
    systems = [(name, mode) for name, peer in peers.items() for mode in peer.modes]
    answers: dict[System, list[PeerAnswer]] = {system: [] for system in systems}
    used, waited = dict.fromkeys(peers, 0.0), dict.fromkeys(peers, 0.0)
    for number, prompt in enumerate(prompts):
        turn = number % len(systems)
        for name, mode in systems[turn:] + systems[:turn]:
            time.sleep(PAUSE_SECONDS)
            others = [other for other in peers if other != name]
            before = {other: peers[other].cpu_seconds() for other in others}
            started = time.perf_counter()
            answers[name, mode].append(peers[name].answer(mode, prompt))
            seconds = time.perf_counter() - started
            for other in others:
                used[other] += peers[other].cpu_seconds() - before[other]
                waited[other] += seconds
        print(f"\r{number + 1}/{len(prompts)}", end="", file=sys.stderr, flush=True)
    return answers, {name: used[name] / waited[name] for name in peers}


def _summary(answers: dict[System, list[PeerAnswer]], system: System) -> dict[str, Any]:
    found, ours, plain = answers[system], answers[OURS], answers[_own_plain(system)]
    pairs = list(zip(ours, found, strict=True))
    decoded = [pair for pair in pairs if all(len(answer.token_ids) > 1 for answer in pair)]
    return {
        "median_decode_tokens_per_second": round(statistics.median(_decode_rate(answer) for _, answer in decoded), 1),
        "median_prefill_ms": round(1e3 * statistics.median(answer.prefill_seconds for answer in found), 1),
        "ours_over_it": _quartiles([_decode_rate(one) / _decode_rate(other) for one, other in decoded]),
        "ours_over_it_with_prefill": _quartiles([_whole_rate(one) / _whole_rate(other) for one, other in pairs]),
        "prompts_that_differ_from_own_plain": sum(
            one.token_ids != other.token_ids for one, other in zip(found, plain, strict=True)
        ),
    }


def _own_plain(system: System) -> System:
    """Plain decoding on the same kernels: a peer's own settings may choose others than the fastest ones."""
    name, mode = system
    return name, PLAIN + AS_BUILT if mode.endswith(AS_BUILT) else PLAIN


def _decode_rate(answer: PeerAnswer) -> float:
    return (len(answer.token_ids) - 1) / answer.decode_seconds


def _whole_rate(answer: PeerAnswer) -> float:
    return len(answer.token_ids) / (answer.prefill_seconds + answer.decode_seconds)


def _quartiles(ratios: list[float]) -> list[float]:
    """Of the prompts' own ratios; the second is the median."""
    return [round(value, 3) for value in statistics.quantiles(ratios, n=4, method="inclusive")]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
