"""The log-probability of each token of an answer, and the tokens that were nearly chosen.

Usage:

    python examples/logprobs.py BUNDLE
"""

from __future__ import annotations

import math
import sys

import dovetail_ort
from dovetail_ort import GenerationOptions


def main(bundle: str) -> None:
    """Print a line for each token: its text, its probability, and the three likeliest tokens."""
    options = GenerationOptions(max_new_tokens=24, logprobs=3)
    with dovetail_ort.load(bundle) as model:
        for piece in model.stream([{"role": "user", "content": "Name a colour."}], options):
            assert piece.logprobs is not None
            likeliest = [
                f"{model.tokenizer.decode([token_id])!r} {math.exp(logprob):.3f}"
                for token_id, logprob in piece.logprobs.top
            ]
            print(f"{piece.text!r:<16} {math.exp(piece.logprobs.logprob):.3f}   of {', '.join(likeliest)}")


if __name__ == "__main__":
    main(sys.argv[1])
