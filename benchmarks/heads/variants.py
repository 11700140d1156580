"""Train heads that differ from a base in one thing, each for as many steps; `measure` compares them.

    python -m benchmarks.heads.variants BUNDLE TEXT BASE

BASE is a head that `dovetail-ort train` made from TEXT. The variants get directories beside it; a variant that is there
already is not trained again. `all-tokens` has the weights of BASE, and drafts all tokens although BASE was trained on
its own vocabulary.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dovetail_ort.suites import evaluation_texts
from dovetail_ort_export.training.head_files import RECORD_NAME, load_head, save_head
from dovetail_ort_export.training.options import TrainingInputs, TrainingOptions
from dovetail_ort_export.training.trainer import train_head
from dovetail_ort_runtime.bundle.bundle import Bundle


def main(bundle: str, text: str, base: str) -> None:
    """Train the variants that are missing."""
    head, _, record = load_head(Path(base))
    everything = Path(base).with_name("all-tokens")
    if not everything.exists():
        save_head(head, np.arange(Bundle(bundle).manifest.target.vocabulary_size), record, everything)
    for name, changes in variants(record.options).items():
        out = Path(base).with_name(name)
        if (out / RECORD_NAME).exists():
            continue
        print(f"== {name}", file=sys.stderr)
        train_head(
            bundle,
            out,
            replace(record.options, **changes),
            TrainingInputs(text=Path(text), evaluation_texts=evaluation_texts()),
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )


def variants(base: TrainingOptions) -> dict[str, dict[str, Any]]:
    """The options in which each variant differs from the base.

    Less text is read more often, so that the number of steps is the same.
    """
    tokens = base.num_answer_tokens
    epochs = base.num_epochs
    return {
        "concatenation": {"fusion": "concatenation"},
        "one-step": {"unrolled_steps": 1},
        "half-the-text": {"num_answer_tokens": tokens // 2, "num_epochs": 2 * epochs},
        "quarter-of-the-text": {"num_answer_tokens": tokens // 4, "num_epochs": 4 * epochs},
        **{f"{number}-blocks": {"num_blocks": number} for number in (2, 3, 5)},
        "full-vocabulary": {"draft_vocabulary_size": 0},
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
