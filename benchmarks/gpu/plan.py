"""The steps of a measurement, the most important ones first; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gpu.step import Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        num_prompts: number of prompts of HumanEval.
        max_new_tokens: number of tokens of an answer at most.
        rounds: number of repetitions of what takes milliseconds.
        contexts: numbers of tokens of context for a drafter's forward.
        front_layers: number of the target's blocks on the GPU.
        paper_divisor: how many times narrower the paper's drafter is made.
        answer_tokens: number of answer tokens that are written and trained on.
        threads: numbers of threads of forwards on the CPU.
        compares_values: whether the values that kernels compute are compared; a stand-in of CUDA computes nothing.
    """

    num_prompts: int
    max_new_tokens: int
    rounds: int
    contexts: tuple[int, ...]
    front_layers: int
    paper_divisor: int
    answer_tokens: int
    threads: tuple[int, ...]
    compares_values: bool


FULL: Final = Scale(
    num_prompts=10,
    max_new_tokens=128,
    rounds=200,
    contexts=(256, 3900),
    front_layers=15,
    paper_divisor=1,
    answer_tokens=60_000,
    threads=(1, 2, 4, 8, 16),
    compares_values=True,
)
# Every step to its end in seconds, with a model of a few tensors.
REHEARSAL: Final = Scale(
    num_prompts=1,
    max_new_tokens=8,
    rounds=8,
    contexts=(64,),
    front_layers=1,
    paper_divisor=32,
    answer_tokens=3000,
    threads=(1, 2),
    compares_values=False,
)


def plan(scale: Scale, source: Path, head: Path, bundles: Path) -> list[Step]:
    """All steps.

    Args:
        scale: how much each does.
        source: the model, a directory or a GGUF file.
        head: directory of its draft head.
        bundles: folder that the step `export` makes `int8`, `fp16` and `cut` in, three bundles of that model.
    """
    return [
        *_first_contact(scale),
        _module("export", 240, "exports", str(source), str(head), str(bundles), "--front", str(scale.front_layers)),
        _program("doctor-bundle", 60, "doctor", str(bundles / "fp16"), "--json"),
        _forwards(scale, bundles / "fp16", "cuda"),
        _module("between-chains", 60, "between_chains", str(bundles / "fp16"), "--rounds", str(scale.rounds)),
        *_humaneval(scale, bundles),
        *_drafting_ahead(scale, bundles / "fp16"),
        *_front(scale, bundles / "cut"),
        *_paper(scale),
        _module("cuda-graph", 90, "cuda_graph", str(bundles / "fp16"), "--rounds", str(scale.rounds)),
        _cpu_threads(scale, bundles / "int8"),
        _forwards(scale, bundles / "int8", "cpu"),
        _training(scale, source, bundles / "int8"),
    ]


def _first_contact(scale: Scale) -> list[Step]:
    """What needs no model: whether CUDA works here at all."""
    # Tests whose name says so compare what CUDA's kernels compute with the CPU's.
    chosen = () if scale.compares_values else ("-k", "not cuda_drafts and not on_cuda_say")
    tests = ("-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-W", "default", *chosen)
    return [
        _module("contact", 60, "contact", needs="runtime"),
        _program("doctor", 60, "doctor", "--json", needs="runtime"),
        Step(
            name="device-tests",
            arguments=(*tests, "tests/end_to_end/test_devices.py"),
            limit=180,
            needs="runtime",
        ),
    ]


def _humaneval(scale: Scale, bundles: Path) -> list[Step]:
    """Drafter on CUDA and target on the CPU, against both on the CPU; then half of the target on CUDA."""
    drafting = ("--drafter-device", "cuda")
    front = (*drafting, "--target-layers-on-gpu", str(scale.front_layers))
    return [
        _bench(scale, "drafter-on-cuda", bundles / "fp16", *drafting),
        _bench(scale, "drafter-on-cuda-2-cores", bundles / "fp16", *drafting, num_cores=2),
        _bench(scale, "drafter-on-cuda-2-threads", bundles / "fp16", *drafting, "--threads", "2"),
        _bench(scale, "drafter-on-cpu", bundles / "int8", "--drafter-device", "cpu"),
        _bench(scale, "drafter-on-cpu-2-cores", bundles / "int8", "--drafter-device", "cpu", num_cores=2),
        # Launching is work of the CPU: one core of two is left to it.
        _bench(scale, "drafter-on-cuda-2-cores-1-thread", bundles / "fp16", *drafting, "--threads", "1", num_cores=2),
        _bench(scale, "drafter-on-cuda-chain-4", bundles / "fp16", *drafting, "--drafter", "dgf", "--chain", "4"),
        _bench(scale, "blocks-on-cuda", bundles / "cut", *front),
        _bench(scale, "blocks-on-cuda-2-threads", bundles / "cut", *front, "--threads", "2"),
    ]


def _bench(scale: Scale, name: str, bundle: Path, *options: str, num_cores: int | None = None) -> Step:
    counts = ("--limit", str(scale.num_prompts), "--max-new-tokens", str(scale.max_new_tokens))
    command = ("bench", str(bundle), "--suite", "humaneval", *counts, "--json", *options)
    return Step(name=name, arguments=("-m", "dovetail_ort", *command), limit=100, num_cores=num_cores)


def _drafting_ahead(scale: Scale, bundle: Path) -> list[Step]:
    counts = ("--limit", str(scale.num_prompts), "--max-new-tokens", str(scale.max_new_tokens))
    return [
        _module("ahead", 80, "ahead", str(bundle), *counts),
        _module("ahead-2-threads", 80, "ahead", str(bundle), *counts, "--threads", "2"),
    ]


def _front(scale: Scale, bundle: Path) -> list[Step]:
    return [_module("front-exactness", 60, "front_exactness", str(bundle), "--rounds", str(scale.rounds // 4 + 1))]


def _paper(scale: Scale) -> list[Step]:
    options = ("--rounds", str(scale.rounds // 5 + 1), "--divisor", str(scale.paper_divisor))
    return [
        _module("paper-1-block", 90, "paper_drafter", "1", *options),
        _module("paper-5-blocks", 120, "paper_drafter", "5", *options, "--vram-limit", "3.2GB"),
    ]


def _cpu_threads(scale: Scale, bundle: Path) -> Step:
    threads = ",".join(map(str, scale.threads))
    options = ("--threads", threads, "--rounds", str(scale.rounds // 4 + 1))
    return _module("cpu-threads", 60, "cpu_threads", str(bundle), *options)


def _forwards(scale: Scale, bundle: Path, device: str) -> Step:
    contexts = ",".join(map(str, scale.contexts))
    options = ("--rounds", str(scale.rounds), "--contexts", contexts)
    return _module(f"forwards-{device}", 60, "forwards", str(bundle), device, *options)


def _training(scale: Scale, source: Path, bundle: Path) -> Step:
    tokens = ("--answer-tokens", str(scale.answer_tokens))
    return _module("training", 150, "training", str(bundle), str(source), *tokens)


def _module(name: str, limit: float, module: str, *arguments: str, needs: str = "model") -> Step:
    return Step(name=name, arguments=("-m", f"benchmarks.gpu.{module}", *arguments), limit=limit, needs=needs)


def _program(name: str, limit: float, *arguments: str, needs: str = "model") -> Step:
    return Step(name=name, arguments=("-m", "dovetail_ort", *arguments), limit=limit, needs=needs)
