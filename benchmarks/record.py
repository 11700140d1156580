"""What a command of dovetail-ort measured, as a result file of this machine.

    python -m benchmarks.record NAME bench BUNDLE --suite humaneval

The command runs with `--json`.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.machine import write_result


def main(name: str, *command: str) -> None:
    """Run the command and write what it printed."""
    whole = [sys.executable, "-m", "dovetail_ort", *command, "--json"]
    printed = subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True).stdout
    write_result(name, json.loads(printed))


if __name__ == "__main__":
    main(*sys.argv[1:])
