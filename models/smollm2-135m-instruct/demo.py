"""Two prompts, each answered plainly and speculatively: code, which repeats itself, and prose, which does not.

python demo.py BUNDLE
"""

from __future__ import annotations

import sys
from typing import Final

import dovetail_ort
from dovetail_ort import Generation, GenerationOptions, Model, SamplingOptions

PROMPTS: Final = (
    "Write a Python class Stack with the methods push, pop, peek and is_empty.",
    "Explain in a few sentences why the sky is blue.",
)
GREEDY: Final = SamplingOptions()
PLAIN_FAST: Final = GenerationOptions(max_new_tokens=160, sampling=GREEDY, max_draft_tokens=0, exact=False)
PLAIN: Final = GenerationOptions(max_new_tokens=160, sampling=GREEDY, max_draft_tokens=0)
SPECULATIVE: Final = GenerationOptions(max_new_tokens=160, sampling=GREEDY)


def main(bundle: str) -> int:
    """Show both answers of each prompt; 0 if they are identical."""
    model = dovetail_ort.load(bundle)
    results = [compare(model, prompt) for prompt in PROMPTS]
    return 0 if all(results) else 1


def compare(model: Model, prompt: str) -> bool:
    """Print what plain and speculative decoding give for a prompt; whether it is the same."""
    fast, plain, speculative = (answer(model, prompt, options) for options in (PLAIN_FAST, PLAIN, SPECULATIVE))
    print(f"> {prompt}\n\n{speculative.text}\n")
    rates = {
        "plain, one-row kernel": fast.statistics.decode_tokens_per_second,
        "plain, exact": plain.statistics.decode_tokens_per_second,
        "speculative, exact": speculative.statistics.decode_tokens_per_second,
    }
    for mode, rate in rates.items():
        print(f"  {mode:<24}{rate:7.1f} tokens/s")
    fastest_plain = max(rates["plain, one-row kernel"], rates["plain, exact"])
    identical = speculative.token_ids == plain.token_ids
    print(f"  speedup over the faster  {rates['speculative, exact'] / fastest_plain:6.2f} x")
    print(f"  tokens a round           {speculative.statistics.accepted_length:6.2f}")
    print(f"  identical to plain       {'yes, token for token' if identical else 'NO'}\n")
    return identical


def answer(model: Model, prompt: str, options: GenerationOptions) -> Generation:
    """A fresh answer: nothing of the last one is reused."""
    model.reset()
    return model.generate([{"role": "user", "content": prompt}], options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
