"""Fuzz each target for a while, keep what came of it in `runs.json`, and fail if something was found.

    python tests/fuzzing/record_run.py --seconds 300 [TARGET ...]

Needs the package atheris, which is for CPython on Linux. What libFuzzer finds stands in `build/fuzzing/TARGET`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TARGETS = ("manifest", "template", "tokenizer", "graph", "operators")


def record(target: str, seconds: int) -> dict[str, object]:
    """Run one target and sum up what libFuzzer printed."""
    folder = Path("build/fuzzing") / target
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, str(HERE / "fuzz.py"), target, str(folder / "corpus"), str(HERE / "corpus" / target)),
        *(f"-max_total_time={seconds}", f"-dict={HERE / 'corpus' / target}.dict", f"-artifact_prefix={folder}/"),
        *("-print_final_stats=1", "-timeout=20", "-rss_limit_mb=2048", "-max_len=8192"),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "TMPDIR": scratch, "RUST_BACKTRACE": "0"}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    output = done.stderr
    (folder / "output.txt").write_text(output)
    statistics = dict(re.findall(r"stat::(\w+):\s+(\d+)", output))
    progress = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", output)
    return {
        "target": target,
        "date": datetime.date.today().isoformat(),
        "seconds": seconds,
        "executions": int(statistics["number_of_executed_units"]),
        "edges": int(progress[-1][0]),
        "features": int(progress[-1][1]),
        "inputs_kept": int(progress[-1][2]),
        "seeds": len(list((HERE / "corpus" / target).iterdir())),
        "slowest_input_s": int(statistics["slowest_unit_time_sec"]),
        "peak_rss_mb": int(statistics["peak_rss_mb"]),
        "findings": sorted(path.name for path in folder.iterdir() if re.match(r"(crash|timeout|oom|leak)-", path.name)),
        "packages": {name: importlib.metadata.version(name) for name in ("atheris", "jinja2", "tokenizers")},
    }


def main() -> int:
    """Run the targets one after the other; 1 if one of them has findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=300, help="of each target (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "runs.json", help="file of results (default: %(default)s)")
    arguments = parser.parse_args()
    path = arguments.out
    runs = {run["target"]: run for run in json.loads(path.read_text())} if path.exists() else {}
    for target in arguments.targets or TARGETS:
        runs[target] = record(target, arguments.seconds)
        path.write_text(json.dumps([runs[name] for name in TARGETS if name in runs], indent=2) + "\n")
    found = [name for name in arguments.targets or TARGETS if runs[name]["findings"]]
    for name in found:
        print(f"{name}: {', '.join(runs[name]['findings'])} in build/fuzzing/{name}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
