"""Measure on the machine with the GPU: take a part that has come, then run every step whose archives are complete.

    python3 -m benchmarks.gpu.measure build/gpu/parts/1           # in the root of the checkout
    python3 -m benchmarks.gpu.measure build/gpu/parts/3 STEP...   # these steps, even if they ended well before
    python3 -m benchmarks.gpu.measure --list

What has come stays in FOLDER. A step that ended well is not run again, so one call can continue where another stopped.
Results are written after every step, to `$OUT/MACHINE/gpu.json`, together with those that the checkout has of this
machine: copy that folder to `benchmarks/results`. `$OUT/log.txt` holds what every step printed. A step that fails does
not stop the others; the exit status is then 1. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.environment import make_environment
from benchmarks.gpu.parts import Received
from benchmarks.gpu.plan import FULL, REHEARSAL, plan
from benchmarks.gpu.step import Step, run_step

CHECKOUT: Final = Path(__file__).parents[2]
HEAD: Final = CHECKOUT / "models" / "smollm2-135m-instruct" / "head"
_SHOWN_CHARACTERS: Final = 1200


def main(arguments: list[str]) -> int:
    """Run the steps whose archives have come; return the exit status."""
    given = _parse(arguments)
    os.chdir(CHECKOUT)
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    latest = time.monotonic() + given.latest
    received = Received(given.folder)
    if given.part is not None:
        received.take(given.part)
    complete = received.unpack()
    print("complete:", ", ".join(complete) or "no archive yet")
    if "runtime" not in complete:
        return 0
    python = make_environment(given.folder / "environment", given.folder / "runtime" / "site", CHECKOUT)
    record = _Record(python, given.folder, out)
    steps = _wanted(_steps(given), complete, given.steps, record)
    failed = [step.name for step in steps if not _run(step, python, given.folder, record, latest)]
    print("failed or left out: " + ", ".join(failed) if failed else "all steps ended well")
    return 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.measure", description=__doc__.partition("\n")[0])
    parser.add_argument("part", type=Path, nargs="?", help="folder of a part, build/gpu/parts/1")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="run only these steps")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/gpu-measurement"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "build/gpu/out")), help="for results")
    parser.add_argument("--latest", type=float, default=520, help="no step starts after so many seconds")
    parser.add_argument("--head", type=Path, default=HEAD, help="draft head of the model")
    parser.add_argument("--rehearsal", action="store_true", help="as little as possible of every step")
    parser.add_argument("--list", action="store_true", help="name the steps and end")
    given = parser.parse_intermixed_args(arguments)
    for name in ("part", "folder", "out", "head"):
        path = getattr(given, name)
        setattr(given, name, None if path is None else path.resolve())
    known = [step.name for step in _steps(given)]
    if given.list:
        parser.exit(message="\n".join(known) + "\n")
    unknown = set(given.steps) - set(known)
    if unknown:
        parser.error(f"steps must be of --list, got {', '.join(sorted(unknown))}")
    return given


def _steps(given: argparse.Namespace) -> list[Step]:
    """All steps of the plan; the model is the only entry of its archive."""
    entries = list((given.folder / "model").glob("*"))
    source = entries[0] if entries else given.folder / "model" / "none"
    return plan(REHEARSAL if given.rehearsal else FULL, source, given.head, given.folder / "bundles")


def _wanted(steps: Sequence[Step], complete: Sequence[str], names: Sequence[str], record: _Record) -> list[Step]:
    """The steps whose archive has come: the named ones, or all that have not ended well on this machine."""
    ready = [step for step in steps if step.needs in complete]
    if names:
        return [step for step in ready if step.name in names]
    return [step for step in ready if not record.ended_well(step.name)]


def _run(step: Step, python: Path, folder: Path, record: _Record, latest: float) -> bool:
    if time.monotonic() > latest:
        print(f"== {step.name}: no time left")
        return False
    print(f"== {step.name}, at most {step.limit:g} s", flush=True)
    outputs = folder / "outputs"
    outputs.mkdir(exist_ok=True)
    found = run_step(step, python, outputs, _environment(folder))
    record.add(step.name, found)
    print(f"   status {found['status']}, {found['seconds']} s")
    if found["status"] or "output" in found:
        print((found.get("output", "") + found.get("errors", ""))[-_SHOWN_CHARACTERS:], flush=True)
    return bool(found["status"] == 0)


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_MODULE_LOADING": "LAZY",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


class _Record:
    """Results of this machine: what the checkout has of it, and what was measured since; written after every step."""

    def __init__(self, python: Path, folder: Path, out: Path) -> None:
        machine = describe_machine(python, _environment(folder))
        self._kept = folder / "results.json"
        self._log = out / "log.txt"
        self._outputs = folder / "outputs"
        self._path = out / machine.pop("folder") / "gpu.json"
        committed = CHECKOUT / "benchmarks" / "results" / self._path.parent.name / "gpu.json"
        earlier = json.loads(committed.read_text())["steps"] if committed.exists() else {}
        self._here: dict[str, Any] = json.loads(self._kept.read_text()) if self._kept.exists() else {}
        self._found = {**machine, "steps": earlier | self._here}
        self._write()

    def ended_well(self, name: str) -> bool:
        """Whether a step ended well on this machine, since it was started."""
        return name in self._here and self._here[name]["status"] == 0

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Keep what a step found, and write everything."""
        self._here[name] = found
        self._found["steps"][name] = found
        with self._log.open("a") as log:
            log.write(f"\n== {name}: status {found['status']}, {found['seconds']} s\n")
            for suffix in ("out", "err"):
                log.write((self._outputs / f"{name}.{suffix}").read_text(errors="replace"))
        self._write()

    def _write(self) -> None:
        self._kept.write_text(json.dumps(self._here))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n")


def describe_machine(python: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What `benchmarks.gpu.machine` says of this machine, in the environment that measures; or why it says nothing."""
    command = [str(python), "-m", "benchmarks.gpu.machine"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"folder": "unknown-machine", "error": done.stderr}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
