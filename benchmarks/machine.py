"""Where and when something was measured, and the result file that says it.

python -m benchmarks.machine    # prints the folder of this machine's results
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnxruntime

from benchmarks.result_files import RESULTS
from dovetail_ort_runtime.machine.processor import processor_name

# Words that every processor's name has, and clock rates.
_WITHOUT_MEANING: Final = re.compile(r"\((r|tm|c)\)|\b(cpu|processor)\b|@.*?ghz", re.IGNORECASE)


def machine_slug(name: str) -> str:
    """The name of a machine, `processor_name()`, as the name of a folder.

    "Intel(R) Xeon(R) Processor, 2 cores, amx_int8" becomes "intel-xeon-2-cores-amx-int8".
    """
    words = _WITHOUT_MEANING.sub(" ", name).lower()
    return "-".join(re.findall(r"[a-z0-9]+", words))


def results_folder() -> Path:
    """The folder of this machine's results, made if it is not there."""
    folder = RESULTS / machine_slug(processor_name())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measured_here() -> dict[str, str]:
    """The origin that every result file names: this machine, this day, the versions of this project and its engine."""
    return {
        "machine": processor_name(),
        "date": datetime.date.today().isoformat(),
        "dovetail_ort": importlib.metadata.version("dovetail-ort"),
        "onnxruntime": onnxruntime.__version__,
    }


def write_result(name: str, found: Mapping[str, Any]) -> Path:
    """Write a result file of this machine, which says where and when it was measured, and print its path.

    Args:
        name: name of the file, without suffix.
        found: what was measured, as JSON values.
    """
    path = results_folder() / f"{name}.json"
    path.write_text(json.dumps({**measured_here(), **found}, indent=2) + "\n", encoding="utf-8")
    print(path)
    return path


if __name__ == "__main__":
    print(results_folder())
