"""onnxruntime-genai: as its builder configures it, with our number of threads, and with its n-gram speculation."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import numpy as np
import onnxruntime_genai as og

from benchmarks.peers.program import Mode, PeerAnswer, PeerOptions, serve

SPECULATION: Final[dict[str, dict[str, Any]]] = {
    "ngram 3, 8 drafts": {"ngram_size": 3, "max_draft_tokens": 8},
    "ngram 4, 8 drafts": {"ngram_size": 4, "max_draft_tokens": 8},
    "ngram 3, adaptive": {"ngram_size": 3, "min_adaptive_k": 2, "ngram_chained_lookup": True},
}


def load(options: PeerOptions) -> dict[str, Mode]:
    """The modes; the model is loaded twice, because the number of threads belongs to a session."""
    as_built = _model(options, {})
    threaded = _model(options, {"intra_op_num_threads": options.threads})
    return {
        "baseline": _mode(threaded, options, None),
        "baseline, as built": _mode(as_built, options, None),
        **{name: _mode(threaded, options, settings) for name, settings in SPECULATION.items()},
    }


def _model(options: PeerOptions, session_options: dict[str, int]) -> og.Model:
    config = og.Config(str(options.model))
    changes = {"eos_token_id": options.eos_token_ids, "decoder": {"session_options": session_options}}
    config.overlay(json.dumps({"model": changes}))
    return og.Model(config)


def _mode(model: og.Model, options: PeerOptions, speculation: dict[str, Any] | None) -> Mode:
    def answer(prompt: list[int]) -> PeerAnswer:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=len(prompt) + options.max_new_tokens)
        if speculation is not None:
            parameters.set_speculative_options(**speculation)
        generator = og.Generator(model, parameters)
        started = time.perf_counter()
        generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        while not generator.is_done():
            generator.generate_next_token()
        ended = time.perf_counter()
        token_ids = [int(token_id) for token_id in generator.get_sequence(0)[len(prompt) :]]
        # The sequence leaves out the end-of-text token, which took a forward too.
        if len(token_ids) < options.max_new_tokens:
            token_ids.append(int(generator.get_next_tokens()[0]))
        return PeerAnswer(token_ids=tuple(token_ids), prefill_seconds=first - started, decode_seconds=ended - first)

    return answer


if __name__ == "__main__":
    serve(load, packages=("onnxruntime-genai", "onnxruntime"))
