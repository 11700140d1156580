"""Print an answer token by token; accepted draft tokens are underlined.

Usage:

    python examples/streaming.py BUNDLE "Why is the sky blue?"
"""

from __future__ import annotations

import sys

import dovetail_ort
from dovetail_ort import GenerationOptions


def main(bundle: str, question: str) -> None:
    """Stream the answer, then print its statistics."""
    with dovetail_ort.load(bundle) as model:
        for piece in model.stream([{"role": "user", "content": question}], GenerationOptions(max_new_tokens=200)):
            print(f"\033[4m{piece.text}\033[0m" if piece.drafted else piece.text, end="", flush=True)
            if piece.generation is not None:  # the last piece
                statistics = piece.generation.statistics
                print(
                    f"\n\n{statistics.new_tokens} tokens, {statistics.decode_tokens_per_second:.0f} tokens/s, ", end=""
                )
                print(f"{statistics.accepted_length:.1f} tokens a round")


if __name__ == "__main__":
    main(*sys.argv[1:3])
