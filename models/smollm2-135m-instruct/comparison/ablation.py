"""Train heads that differ from the shipped one in one factor, each for as many steps, for `measure_drafters.py`.

    python ablation.py BUNDLE TEXT OUT

TEXT holds what `dovetail-ort train` wrote for the shipped head; OUT gets a directory a head, and those that are there
already are left alone.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dovetail_ort.suites import evaluation_texts
from dovetail_ort_export.training.head_directory import RECORD_NAME
from dovetail_ort_export.training.trainer import train_head
from dovetail_ort_export.training.training_options import TrainingOptions

# A part of the text once, or less of it as often as gives the same number of steps.
TEXT_TOKENS: Final = 200_000
BASE: Final = TrainingOptions(num_answer_tokens=TEXT_TOKENS, num_epochs=1, precision="bf16")
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "base": {},
    "concatenation": {"fusion": "concatenation"},
    "2-blocks": {"num_blocks": 2},
    "3-blocks": {"num_blocks": 3},
    "5-blocks": {"num_blocks": 5},
    "one-step": {"unrolled_steps": 1},
    "full-vocabulary": {"draft_vocabulary_size": 0},
    "half-the-text": {"num_answer_tokens": TEXT_TOKENS // 2, "num_epochs": 2},
    "quarter-of-the-text": {"num_answer_tokens": TEXT_TOKENS // 4, "num_epochs": 4},
}


def main(bundle: str, text: str, out: str) -> None:
    """Train what is missing."""
    for name, changes in VARIANTS.items():
        if (Path(out) / name / RECORD_NAME).exists():
            continue
        print(f"== {name}", file=sys.stderr)
        train_head(
            bundle,
            Path(out) / name,
            replace(BASE, **changes),
            text=Path(text),
            evaluation_texts=evaluation_texts(),
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
