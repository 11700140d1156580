"""What a start costs: the import of the package, and the first token of a fresh process.

python -m benchmarks.start_up BUNDLE
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from typing import Final

from benchmarks.machine import write_result
from benchmarks.timing import time_turns

REPEATS: Final = 9
PROMPT_TOKENS: Final = 50
FIRST_TOKEN: Final = f"""
import sys
import dovetail_ort
from dovetail_ort import GenerationOptions
model = dovetail_ort.load(sys.argv[1])
tokens = model.token_ids("The quick brown fox jumps over the lazy dog. " * 5)[:{PROMPT_TOKENS}]
model.generate(tokens, GenerationOptions(max_new_tokens=1))
"""
PROGRAMS: Final = {
    "interpreter": "pass",
    "import": "import dovetail_ort",
    "first_token": FIRST_TOKEN,
}


def main(bundle: str) -> None:
    """Measure the three programs in turns, and write `start-up.json`."""
    with tempfile.TemporaryDirectory() as compiled:
        # Installed packages are compiled, which a variable may forbid here. The first, unmeasured round compiles.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
        runs = {name: partial(_run, program, bundle, environment) for name, program in PROGRAMS.items()}
        medians = {name: statistics.median(ms) for name, ms in time_turns(runs, REPEATS, unmeasured=1).items()}
    result = {
        "repeats": REPEATS,
        "prompt_tokens": PROMPT_TOKENS,
        "import_ms": round(medians["import"] - medians["interpreter"], 1),
        "first_token_ms": round(medians["first_token"], 1),
    }
    write_result("start-up", result)


def _run(program: str, bundle: str, environment: dict[str, str]) -> None:
    """Run a program in a Python process of its own, to its end."""
    subprocess.run([sys.executable, "-c", program, bundle], check=True, env=environment)


if __name__ == "__main__":
    main(sys.argv[1])
