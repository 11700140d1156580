"""A conversation: each turn reads only what is new, as the KV cache keeps the turns before it.

Usage:

    python examples/chat.py BUNDLE
"""

from __future__ import annotations

import sys

import dovetail_ort
from dovetail_ort import GenerationOptions, Message


def main(bundle: str) -> None:
    """Answer each line of standard input, until it ends."""
    options = GenerationOptions(max_new_tokens=200)
    messages: list[Message] = [{"role": "system", "content": "You answer in one or two sentences."}]
    with dovetail_ort.load(bundle) as model:
        for line in sys.stdin:
            messages.append({"role": "user", "content": line.strip()})
            answer = model.generate(messages, options)
            messages.append({"role": "assistant", "content": answer.text})
            statistics = answer.statistics
            print(answer.text)
            print(f"[{statistics.cached_tokens} of {statistics.prompt_tokens} prompt tokens were in the cache]\n")


if __name__ == "__main__":
    main(sys.argv[1])
