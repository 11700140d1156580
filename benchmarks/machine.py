"""The machine that a measurement ran on, and the folder of its results.

python -m benchmarks.machine    # prints the folder, relative to the repository
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Final

import onnxruntime

from dovetail_ort_runtime.machine.environment import processor_name

RESULTS: Final = Path(__file__).parent / "results"
# Words that every processor's name has, and clock rates.
_WITHOUT_MEANING: Final = re.compile(r"\((r|tm|c)\)|\b(cpu|processor)\b|@.*?ghz", re.IGNORECASE)


def machine_slug(name: str) -> str:
    """The name of a machine, `processor_name()`, as the name of a folder.

    "Intel(R) Xeon(R) Processor, 2 cores, amx_int8" becomes "intel-xeon-2-cores-amx-int8".
    """
    words = _WITHOUT_MEANING.sub(" ", name).lower()
    return "-".join(re.findall(r"[a-z0-9]+", words))


def results_folder() -> Path:
    """Folder of this machine's results, made if it is not there."""
    folder = RESULTS / machine_slug(processor_name())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measured_here() -> dict[str, str]:
    """What every result file says of where it comes from: this machine, this day, this ONNX Runtime."""
    return {
        "machine": processor_name(),
        "date": datetime.date.today().isoformat(),
        "onnxruntime": onnxruntime.__version__,
    }


if __name__ == "__main__":
    print(results_folder())
