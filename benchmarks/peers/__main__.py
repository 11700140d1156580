"""dovetail-ort and its peers on the same prompts, prompt by prompt in turns, each in a process of its own.

    python -m benchmarks.peers BUNDLE PEERS [NUM_PROMPTS]

PEERS is the directory that `make compare` fills with environments and models. Every system answers every prompt in all
its modes, with the same number of threads; the order changes from prompt to prompt. Fewer prompts than the suite has,
two or more, are spread over it. The processor time of the waiting processes is measured too; it must be almost zero.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import write_result
from benchmarks.peers.process import PeerProcess
from benchmarks.peers.program import PeerAnswer, PeerOptions
from benchmarks.peers.setups import peer_setups
from benchmarks.prompt_sets import prompt_token_ids, spread
from benchmarks.timing import in_turn, quartiles
from dovetail_ort.suites import HUMANEVAL
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.machine.processor import usable_cores

MAX_NEW_TOKENS: Final = 128
# After this pause the threads of the last turn no longer spin.
PAUSE_SECONDS: Final = 0.1
OURS: Final = ("dovetail-ort", "speculative")
BASELINE: Final = "baseline"
AS_BUILT: Final = ", as built"

System = tuple[str, str]


def main(bundle_path: str, built: str, num_prompts: int | None) -> None:
    """Run everything, and write `peers.json`."""
    bundle = Bundle(bundle_path)
    options = PeerOptions(
        model=Path(bundle_path),
        threads=usable_cores(),
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_ids=bundle.manifest.generation.eos_token_ids,
    )
    prompts = prompt_token_ids(bundle, spread(HUMANEVAL, num_prompts))
    setups = peer_setups(Path(bundle_path), Path(built))
    with contextlib.ExitStack() as stack:
        peers = {}
        for name, setup in setups.items():
            peers[name] = PeerProcess(setup, replace(options, model=setup.model))
            stack.callback(peers[name].close)
            for mode in peers[name].modes:
                peers[name].answer(mode, prompts[0])  # a warm-up
        answers, idle_shares = _take_turns(peers, prompts)
    result = {
        "suite": HUMANEVAL,
        "num_prompts": len(prompts),
        "max_new_tokens": MAX_NEW_TOKENS,
        "threads": options.threads,
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
    write_result("peers", result)


def _take_turns(
    peers: dict[str, PeerProcess], prompts: Sequence[Sequence[int]]
) -> tuple[dict[System, list[PeerAnswer]], dict[str, float]]:
    """All answers, and the processor time of each peer while others answered, as a share of the time that it waited."""
    systems = [(name, mode) for name, peer in peers.items() for mode in peer.modes]
    answers: dict[System, list[PeerAnswer]] = {system: [] for system in systems}
    used = dict.fromkeys(peers, 0.0)
    waited = dict.fromkeys(peers, 0.0)
    for number, prompt in enumerate(prompts):
        for name, mode in in_turn(systems, number):
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
    found = answers[system]
    baseline = answers[_own_baseline(system)]
    pairs = list(zip(answers[OURS], found, strict=True))
    decoded = [pair for pair in pairs if all(len(answer.token_ids) > 1 for answer in pair)]
    return {
        "median_decode_tokens_per_second": round(statistics.median(_decode_rate(answer) for _, answer in decoded), 1),
        "median_prefill_ms": round(1e3 * statistics.median(answer.prefill_seconds for answer in found), 1),
        "ours_over_it": quartiles([_decode_rate(one) / _decode_rate(other) for one, other in decoded]),
        "ours_over_it_with_prefill": quartiles([_whole_rate(one) / _whole_rate(other) for one, other in pairs]),
        "prompts_that_differ_from_own_baseline": sum(
            one.token_ids != other.token_ids for one, other in zip(found, baseline, strict=True)
        ),
    }


def _own_baseline(system: System) -> System:
    """The mode without speculation on the same kernels: as it was built, a peer may use other kernels."""
    name, mode = system
    return name, BASELINE + AS_BUILT if mode.endswith(AS_BUILT) else BASELINE


def _decode_rate(answer: PeerAnswer) -> float:
    return (len(answer.token_ids) - 1) / answer.decode_seconds


def _whole_rate(answer: PeerAnswer) -> float:
    return len(answer.token_ids) / (answer.prefill_seconds + answer.decode_seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
