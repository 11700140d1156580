"""What it costs when the threads of target and drafter spin between forwards on the cores they share.

    python -m benchmarks.spinning BUNDLE

The same bundle is loaded twice, as it is and with ONNX Runtime's own spinning, and answers the tuning prompts in turns.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Final
from unittest.mock import patch

import onnxruntime

import dovetail_ort
from benchmarks.machine import write_result
from benchmarks.prompt_sets import TUNING
from benchmarks.timing import in_turn, quartiles
from dovetail_ort import GenerationOptions, Model, SamplingOptions
from dovetail_ort.suites import SuitePrompt, load_suite

OPTIONS: Final = GenerationOptions(max_new_tokens=128, sampling=SamplingOptions())
SPINNING_STOP: Final = "session.force_spinning_stop"


def main(bundle: str) -> None:
    """Compare, and write `spinning.json`."""
    quiet = dovetail_ort.load(bundle)
    with _spinning():
        spinning = dovetail_ort.load(bundle)
    ratios = []
    for number, prompt in enumerate(load_suite(TUNING)):
        rates = {model: _rate(model, prompt) for model in in_turn([quiet, spinning], number)}
        ratios.append(rates[quiet] / rates[spinning])
    write_result("spinning", {"num_prompts": len(ratios), "speed_over_spinning": quartiles(ratios)})


def _rate(model: Model, prompt: SuitePrompt) -> float:
    model.reset()
    return model.generate(prompt.messages, OPTIONS).statistics.decode_tokens_per_second


@contextlib.contextmanager
def _spinning() -> Iterator[None]:
    """Sessions that are opened within it leave their threads spinning."""
    add = onnxruntime.SessionOptions.add_session_config_entry

    def without(options: Any, name: str, value: str) -> None:
        if name != SPINNING_STOP:
            add(options, name, value)

    with patch.object(onnxruntime.SessionOptions, "add_session_config_entry", without):
        yield


if __name__ == "__main__":
    main(*sys.argv[1:])
