"""What a start costs: the import of the package, and the first token of a fresh process.

python -m benchmarks.start_up BUNDLE
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Final

from benchmarks.machine import write_result

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
    """Run the three programs in turns and write the medians of their wall times, in milliseconds."""
    with tempfile.TemporaryDirectory() as compiled:
        # Installed packages are compiled: a variable may forbid it here. The first run of each fills the caches.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
        for program in PROGRAMS.values():
            milliseconds(program, bundle, environment)
        times = [
            {name: milliseconds(program, bundle, environment) for name, program in PROGRAMS.items()}
            for _ in range(REPEATS)
        ]
    medians = {name: statistics.median(one[name] for one in times) for name in PROGRAMS}
    write_result(
        "start-up",
        {
            "repeats": REPEATS,
            "prompt_tokens": PROMPT_TOKENS,
            "import_ms": round(medians["import"] - medians["interpreter"], 1),
            "first_token_ms": round(medians["first_token"], 1),
        },
    )


def milliseconds(program: str, bundle: str, environment: dict[str, str]) -> float:
    """Wall time of a Python process that runs a program, from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, bundle], check=True, env=environment)
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1])
