"""What it costs when the threads of target and drafter spin between forwards on the cores they share.

    python spinning.py BUNDLE > result.json

The same bundle is loaded twice, as it is and with ONNX Runtime's own spinning, and answers the tuning prompts in turns.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import onnxruntime

import dovetail_ort
from benchmarks.machine import measured_here
from dovetail_ort import GenerationOptions, Model, SamplingOptions
from dovetail_ort.suites import SuitePrompt, load_suite

PROMPTS: Final = Path(__file__).parents[1] / "tuning_prompts.jsonl"
OPTIONS: Final = GenerationOptions(max_new_tokens=128, sampling=SamplingOptions())
SPINNING_STOP: Final = "session.force_spinning_stop"


def main(bundle: str) -> None:
    """Compare and print JSON."""
    quiet = dovetail_ort.load(bundle)
    with _spinning():
        spinning = dovetail_ort.load(bundle)
    ratios = []
    for number, prompt in enumerate(load_suite(str(PROMPTS))):
        models = (quiet, spinning) if number % 2 else (spinning, quiet)
        rates = {model: _rate(model, prompt) for model in models}
        ratios.append(rates[quiet] / rates[spinning])
    low, middle, high = statistics.quantiles(ratios, n=4)
    result = {
        **measured_here(),
        "num_prompts": len(ratios),
        "speed_over_spinning": [round(low, 3), round(middle, 3), round(high, 3)],
    }
    print(json.dumps(result, indent=2))


def _rate(model: Model, prompt: SuitePrompt) -> float:
    model.reset()
    return model.generate(prompt.messages, OPTIONS).statistics.decode_tokens_per_second


@contextlib.contextmanager
def _spinning() -> Iterator[None]:
    """Sessions opened within do not stop their threads' spinning."""
    add = onnxruntime.SessionOptions.add_session_config_entry

    def without(options: Any, name: str, value: str) -> None:
        if name != SPINNING_STOP:
            add(options, name, value)

    with patch.object(onnxruntime.SessionOptions, "add_session_config_entry", without):
        yield


if __name__ == "__main__":
    main(*sys.argv[1:])
