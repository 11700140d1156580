"""Measure parts of the comparison and write their results."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.kernels_comparison.contexts import Contexts
from benchmarks.kernels_comparison.drafting import Drafting
from benchmarks.kernels_comparison.forwards import Forwards
from benchmarks.kernels_comparison.journal import Journal
from benchmarks.kernels_comparison.loading import Loading
from benchmarks.kernels_comparison.part import QUICK, Part, Scale
from benchmarks.kernels_comparison.sides import AFTER, BEFORE, Side, Sides, store_times
from benchmarks.kernels_comparison.suites import GENERAL_PART, HUMANEVAL_PART
from benchmarks.kernels_comparison.training_text import TrainingText
from benchmarks.machine import write_result
from benchmarks.result_files import REPOSITORY, SMOLLM2
from dovetail_ort_runtime.machine.processor import processor_name

PARTS: Final[dict[str, Part]] = {
    "forwards": Forwards(),
    "drafting": Drafting(),
    "loading": Loading(),
    "contexts": Contexts(),
    "training-text": TrainingText(),
    "humaneval": HUMANEVAL_PART,
    "general": GENERAL_PART,
}
CHECKOUT: Final = REPOSITORY / "build" / "f2faf98"
JOURNALS: Final = REPOSITORY / "build" / "kernels-comparison"


def main(arguments: list[str]) -> None:
    """Measure what is not in the journals yet, and write `kernels-PART.json` of this machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels_comparison", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"a part: {', '.join(PARTS)}")
    parser.add_argument("--checkout", type=Path, default=CHECKOUT, help="checkout of f2faf98, with its bundle")
    parser.add_argument("--bundle", type=Path, default=SMOLLM2 / "bundle", help="today's bundle")
    parser.add_argument(
        "--processes",
        type=int,
        default=Scale().processes,
        help="number of processes of each side (default %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="a rehearsal: a few rounds, nothing is written")
    given = parser.parse_args(arguments)
    sides = {
        BEFORE: Side(
            interpreter=given.checkout / ".venv" / "bin" / "python",
            bundle=given.checkout / (SMOLLM2 / "bundle").relative_to(REPOSITORY),
        ),
        AFTER: Side(interpreter=Path(sys.executable), bundle=given.bundle),
    }
    scale = QUICK if given.quick else Scale(processes=given.processes)
    for name in given.parts or PARTS:
        found = {"before": BEFORE, **measure(name, sides, scale, quick=given.quick)}
        if given.quick:
            print(json.dumps(found, indent=2))
        else:
            write_result(f"kernels-{name}", found)


def measure(name: str, sides: Sides, scale: Scale, *, quick: bool) -> dict[str, Any]:
    """The result of a part; the steps that its journal holds are not measured again."""
    part = PARTS[name]
    journal = Journal(JOURNALS / f"{name}{'-quick' if quick else ''}.jsonl", _identity(sides))
    if part.loads_models and "tuned" not in journal.steps:
        print(f"{name}: storing the times of forwards", file=sys.stderr, flush=True)
        store_times(sides, thorough=not quick)
        journal.add("tuned", None)
    steps = part.steps(scale)
    for number, step in enumerate(steps, 1):
        if step not in journal.steps:
            print(f"{name}: {step} ({number} of {len(steps)})", file=sys.stderr, flush=True)
            journal.add(step, part.measure(step, sides, scale))
    return {"processes": scale.processes, **part.summary([journal.steps[step] for step in steps])}


def _identity(sides: Sides) -> dict[str, Any]:
    """This machine and both bundles."""
    manifests = {
        name: hashlib.sha256((side.bundle / "manifest.json").read_bytes()).hexdigest() for name, side in sides.items()
    }
    return {"machine": processor_name(), **manifests}


if __name__ == "__main__":
    main(sys.argv[1:])
