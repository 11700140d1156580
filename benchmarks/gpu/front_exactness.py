"""Whether the first blocks are batch-invariant on CUDA; JSON on standard output.

    python -m benchmarks.gpu.front_exactness BUNDLE --rounds 50

The same text is read in forwards of 2, 3, 5 and 8 rows. `as it is` compares their logits with those of 8 rows. `padded`
gives every forward 8 rows: the last token is repeated, and the results of the copies are dropped. cuBLAS then always
sees the same number of rows, and a difference that is left comes from the length of the text.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.timing import time_rounds
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.devices import CPU, CUDA
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

ROWS: Final = (2, 3, 5, 8)
PADDED_ROWS: Final = max(ROWS)
_NUM_TOKENS: Final = 120


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, required=True)
    given = parser.parse_args()
    bundle = Bundle(given.bundle)
    entry = bundle.manifest.target
    tokens = np.arange(_NUM_TOKENS) * 37 % entry.vocabulary_size
    open_target = partial(Target, bundle.path(entry.graph), entry, max_context=_NUM_TOKENS + PADDED_ROWS)
    target = open_target(first_blocks_device=CUDA)
    expected = _logits(target, tokens, PADDED_ROWS)
    on_cpu = _logits(open_target(first_blocks_device=CPU), tokens, PADDED_ROWS)
    found = {
        "front_layers": entry.front_layers,
        "num_tokens": _NUM_TOKENS,
        "as it is": {str(rows): _compared(expected, _logits(target, tokens, rows)) for rows in ROWS},
        "padded": {str(rows): _compared(expected, _logits(target, tokens, rows, PADDED_ROWS)) for rows in ROWS},
        "cuda against cpu": _compared(on_cpu, expected),
        "forwards": {str(rows): _times(target, tokens, rows, given.rounds) for rows in ROWS},
        "sessions": [{"name": one.name, "device": one.device, "nodes": one.nodes} for one in target.reports()],
    }
    print(json.dumps(found, indent=1))


def _logits(target: Target, tokens: TokenArray, rows: int, padded_rows: int = 0) -> FloatArray:
    """(T, V) logits of a text that is read `rows` tokens a forward, each forward padded to `padded_rows`."""
    target.cache.rewind(0)
    found = []
    for start in range(0, len(tokens), rows):
        chunk = tokens[start : start + rows]
        padding = np.repeat(chunk[-1:], max(0, padded_rows - len(chunk)))
        result = target.forward(ForwardRows.chain(np.concatenate((chunk, padding)), start))
        target.cache.keep(range(len(chunk)))
        found.append(result.logits[: len(chunk)].copy())
    target.cache.rewind(0)
    return np.concatenate(found)


def _compared(expected: FloatArray, logits: FloatArray) -> dict[str, Any]:
    return {
        "identical": bool(np.array_equal(expected, logits)),
        "largest_difference": float(np.abs(expected - logits).max()),
        "same_token": float((expected.argmax(axis=1) == logits.argmax(axis=1)).mean()),
    }


def _times(target: Target, tokens: TokenArray, rows: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a whole forward, blocks on CUDA and on the CPU, with 64 tokens of context."""
    target.read(tokens[:64])
    found = time_rounds(partial(target.forward, ForwardRows.chain(tokens[:rows], 64)), rounds)
    target.cache.rewind(0)
    return found


if __name__ == "__main__":
    main()
