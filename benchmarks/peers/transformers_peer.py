"""transformers on the CPU in fp32 or bf16: without speculation, and with its prompt lookup.

It has no INT8 for the CPU. No smaller model with this tokenizer exists that could assist.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM
from transformers.generation import BaseStreamer

from benchmarks.peers.program import Mode, PeerAnswer, PeerOptions, serve

# The example of its documentation; the length of a match is its default.
LOOKUP: Final = {"prompt_lookup_num_tokens": 10}


class _FirstToken(BaseStreamer):  # type: ignore[misc]
    """The time at which the first new token came."""

    def __init__(self) -> None:
        self._num_pieces = 0
        self.seconds = 0.0

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 - the prompt comes first, then tokens
        self._num_pieces += 1
        if self._num_pieces == 2:
            self.seconds = time.perf_counter()

    def end(self) -> None:
        pass


def load(options: PeerOptions) -> dict[str, Mode]:
    """One model; the second argument is its precision."""
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=sys.argv[2]).eval()
    return {
        "baseline": _mode(model, options),
        "lookup 2, 10 drafts": _mode(model, options, **LOOKUP),
    }


def _mode(model: Any, options: PeerOptions, **settings: Any) -> Mode:
    settings |= {"eos_token_id": list(options.eos_token_ids), "pad_token_id": options.eos_token_ids[0]}
    settings |= {"do_sample": False, "max_new_tokens": options.max_new_tokens}

    def answer(prompt: list[int]) -> PeerAnswer:
        token_ids = torch.tensor([prompt])
        first = _FirstToken()
        started = time.perf_counter()
        with torch.inference_mode():
            result = model.generate(token_ids, attention_mask=torch.ones_like(token_ids), streamer=first, **settings)
        ended = time.perf_counter()
        return PeerAnswer(
            token_ids=tuple(result[0, len(prompt) :].tolist()),
            prefill_seconds=first.seconds - started,
            decode_seconds=ended - first.seconds,
        )

    return answer


if __name__ == "__main__":
    serve(load, packages=("transformers", "torch"))
