"""Where committed results are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[1]
SMOLLM2: Final = REPOSITORY / "models" / "smollm2-135m-instruct"
RESULTS: Final = REPOSITORY / "benchmarks" / "results"
# The machine that most pages show.
XEON_AMX: Final = RESULTS / "intel-xeon-2-cores-amx-int8"
# The machine that trained and compared the heads.
EPYC_AVX2: Final = RESULTS / "amd-epyc-2-cores-avx2"


# The `make` targets that write result files of other names.
_TARGETS: Final = {
    "defeating": "suites",
    "formats": "compare-formats",
    "general": "suites",
    "humaneval": "suites",
    "peers": "compare",
    "planner": "compare-planner",
    "serve-load": "load",
}
_KERNELS_COMPARISON: Final = "kernels-comparison"


def make_target(result_file: Path) -> str:
    """The `make` target that writes a result file."""
    name = result_file.stem
    if name.startswith("kernels-"):
        return _KERNELS_COMPARISON
    return _TARGETS.get(name, name)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
