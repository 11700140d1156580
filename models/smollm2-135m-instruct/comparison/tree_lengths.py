"""Tokens a round by the rows of the draft tree, on HumanEval: the shape of the curve for `models/llama-2-7b-shape`.

    python tree_lengths.py BUNDLE [PROMPTS] > result.json

The trees are Dovetail's, seven expansions of ten nodes, cut to their best nodes; side branches are verified. Counts are
of recorded greedy answers, so the machine has no part in them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final

from recorded_answers import record_answers, replay

from dovetail_ort.suites import HUMANEVAL, load_suite
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.draft_shape import TreeShape
from dovetail_ort_runtime.environment import usable_cores
from dovetail_ort_runtime.feature_drafter import FeatureDrafter

ROWS: Final = (2, 4, 6, 8, 12, 16)
EXPANSIONS: Final = 7
WIDTH: Final = 10
CAPACITY: Final = 2048


def main(bundle_path: str, num_prompts: str = "164") -> None:
    """Count and print JSON."""
    bundle = Bundle(bundle_path)
    entry = bundle.manifest.drafter
    assert entry is not None
    answers = record_answers(bundle_path, load_suite(HUMANEVAL)[: int(num_prompts)])
    model = DraftModel(bundle.path(entry.graph), entry, capacity=CAPACITY, threads=usable_cores())
    lengths = {}
    for rows in ROWS:
        shape = TreeShape(num_rows=rows, num_expansions=EXPANSIONS, width=WIDTH)
        result = replay(FeatureDrafter(model, shape), answers, rows - 1, time.perf_counter)
        lengths[str(rows)] = round(result.tokens / result.rounds, 3)
        print(f"\r{rows} rows: {lengths[str(rows)]}", end="", file=sys.stderr, flush=True)
    record = {
        "suite": HUMANEVAL,
        "num_prompts": len(answers),
        "expansions": EXPANSIONS,
        "width": WIDTH,
        "tokens_a_round": lengths,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
