"""dovetail-ort: without speculation, with prompt lookup alone, and with its own settings."""

from __future__ import annotations

from typing import Any

import dovetail_ort
from benchmarks.peers.program import Mode, PeerAnswer, PeerOptions, serve
from dovetail_ort import GenerationOptions, Model, SamplingOptions


def load(options: PeerOptions) -> dict[str, Mode]:
    """The modes; the bundle is loaded twice, because a drafter belongs to a model."""
    model = dovetail_ort.load(options.model, threads=options.threads)
    lookup = dovetail_ort.load(options.model, threads=options.threads, drafter="lookup")
    return {
        "baseline": _mode(model, options, max_draft_tokens=0),
        "lookup": _mode(lookup, options),
        "speculative": _mode(model, options),
    }


def _mode(model: Model, options: PeerOptions, **changes: Any) -> Mode:
    settings = GenerationOptions(max_new_tokens=options.max_new_tokens, sampling=SamplingOptions(), **changes)

    def answer(prompt: list[int]) -> PeerAnswer:
        model.reset()
        found = model.generate(prompt, settings)
        return PeerAnswer(
            token_ids=found.token_ids,
            prefill_seconds=found.statistics.prefill_seconds,
            decode_seconds=found.statistics.decode_seconds,
        )

    return answer


if __name__ == "__main__":
    serve(load, packages=("dovetail-ort", "onnxruntime"))
