"""How many tokens to draft, and how long a match lookup wants in front: the defaults of the runtime, chosen here.

    python choose_shape.py BUNDLE > result.json

Every combination drafts over the target's recorded answers to the 24 tuning prompts; it is priced with the measured
time of drafting and of the target's passes on this machine. HumanEval plays no part.
"""

from __future__ import annotations

import datetime
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from recorded_answers import record_answers, replay

from dovetail_ort.suites import load_suite
from dovetail_ort_export.pass_times import ROWS, time_passes
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.draft_shape import ChainShape
from dovetail_ort_runtime.environment import processor_name, usable_cores
from dovetail_ort_runtime.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.lookup_first import LookupFirst
from dovetail_ort_runtime.prompt_lookup import PromptLookup
from dovetail_ort_runtime.target import Target

MAX_CONTEXT: Final = 2048
PROMPTS: Final = Path(__file__).parents[1] / "tuning_prompts.jsonl"
LENGTHS: Final = (4, 6)
LEAST_PROBABILITIES: Final = (0.1, 0.2, 0.3)
LOOKUPS: Final = (
    None,
    (1, 2, 3, 5, 8, 12),
    (0, 2, 3, 5, 8, 12),
    (0, 0, 3, 5, 8, 12),
    (0, 0, 0, 5, 8, 12),
    (0, 0, 0, 0, 8, 12),
)


def main(bundle_path: str) -> None:
    """Price every combination and print JSON, the best first."""
    bundle = Bundle(bundle_path)
    answers = record_answers(bundle_path, load_suite(str(PROMPTS)))
    target = Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=MAX_CONTEXT)
    times = time_passes({"target": target}, rounds=40)["target"]
    pass_ms = {rows: statistics.median(ms) for rows, ms in times.items()}
    drafter = bundle.manifest.drafter
    assert drafter is not None
    model = DraftModel(bundle.path(drafter.graph), drafter, capacity=MAX_CONTEXT, threads=usable_cores())
    rows = [rows for rows in ROWS if rows >= 2]
    found = []
    for length, least, lookup in itertools.product(LENGTHS, LEAST_PROBABILITIES, LOOKUPS):
        chain = FeatureDrafter(model, ChainShape(num_tokens=length, least_probability=least))
        used = chain if lookup is None else LookupFirst(PromptLookup(lookup), chain)
        verify_ms = 0.0

        def count(num_rows: int) -> None:
            nonlocal verify_ms
            verify_ms += float(np.interp(num_rows, rows, [pass_ms[row] for row in rows]))

        result = replay(used, answers, 12, time.perf_counter, count)
        found.append(
            {
                "num_tokens": length,
                "least_probability": least,
                "lookup": lookup,
                "tokens_per_second": round(1e3 * result.tokens / (1e3 * result.draft_seconds + verify_ms), 1),
                "accepted_length": round(result.tokens / result.rounds, 3),
                "drafted_per_round": round(result.drafted / result.rounds, 2),
                "draft_ms": round(1e3 * result.draft_seconds / result.rounds, 3),
            }
        )
    result = {
        "machine": processor_name(),
        "date": datetime.date.today().isoformat(),
        "pass_ms": {str(row): round(ms, 3) for row, ms in pass_ms.items()},
        "combinations": sorted(found, key=lambda one: -float(str(one["tokens_per_second"]))),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
