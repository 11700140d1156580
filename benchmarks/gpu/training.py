"""Seconds for writing text and for training a draft head on torch's device; JSON on standard output.

    python -m benchmarks.gpu.training BUNDLE SOURCE --answer-tokens 60000

Torch writes the answers with the original model, and the head is trained on them once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from dovetail_ort_export.training.options import TrainingInputs, TrainingOptions
from dovetail_ort_export.training.trainer import train_head


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("source")
    parser.add_argument("--answer-tokens", type=int, required=True)
    given = parser.parse_args()
    options = TrainingOptions(num_answer_tokens=given.answer_tokens, num_epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        record = train_head(given.bundle, Path(folder), options, TrainingInputs(source=given.source))
        total = time.perf_counter() - started
    found = {
        "machine": record.machine,
        "answer_tokens": record.num_answer_tokens,
        # Loading the model and writing the curve of the training included.
        "writing_s": round(total - record.training_seconds, 1),
        "training_s": record.training_seconds,
        "accepted_length": record.history[-1].accepted_length,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
