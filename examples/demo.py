"""Two prompts, each answered with speculation and without, three times in turns; the figures are medians.

    python examples/demo.py BUNDLE

One prompt asks for code, which repeats itself, and one for prose, which does not.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from statistics import median
from typing import Final

import dovetail_ort
from dovetail_ort import Generation, GenerationOptions, Model, SamplingOptions

PROMPTS: Final = (
    "Write a Python class Stack with the methods push, pop, peek and is_empty.",
    "Explain in a few sentences why the sky is blue.",
)
# An answer takes about a second, in which a machine's speed can change by a tenth.
TURNS: Final = 3
OPTIONS: Final = GenerationOptions(max_new_tokens=160, sampling=SamplingOptions())
MODES: Final = {"baseline": replace(OPTIONS, max_draft_tokens=0), "speculative": OPTIONS}


def main(bundle: str) -> int:
    """Show both answers of each prompt; 0 if they are identical."""
    model = dovetail_ort.load(bundle)
    results = [compare(model, prompt) for prompt in PROMPTS]
    return 0 if all(results) else 1


def compare(model: Model, prompt: str) -> bool:
    """Print what both ways to decode give for a prompt, in turns; whether it is the same every time."""
    turns = [{name: answer(model, prompt, options) for name, options in MODES.items()} for _ in range(TURNS)]
    first = turns[0]
    print(f"> {prompt}\n\n{first['speculative'].text}\n")
    rates = [{name: given.statistics.decode_tokens_per_second for name, given in turn.items()} for turn in turns]
    for name in MODES:
        print(f"  {name:<24}{median(rate[name] for rate in rates):7.1f} tokens/s")
    speedup = median(rate["speculative"] / rate["baseline"] for rate in rates)
    is_identical = len({given.token_ids for turn in turns for given in turn.values()}) == 1
    print(f"  speedup                  {speedup:6.2f} x")
    print(f"  tokens a round           {first['speculative'].statistics.accepted_length:6.2f}")
    print(f"  identical                {'yes, token for token' if is_identical else 'NO'}\n")
    return is_identical


def answer(model: Model, prompt: str, options: GenerationOptions) -> Generation:
    """A fresh answer: nothing of the last one is reused."""
    model.reset()
    return model.generate([{"role": "user", "content": prompt}], options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
