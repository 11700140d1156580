"""OpenVINO GenAI on the CPU: without speculation, and with its prompt lookup."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import openvino
import openvino_genai

from benchmarks.peers.program import Mode, PeerAnswer, PeerOptions, serve

FIVE_DRAFTS: Final = {"max_ngram_size": 3, "num_assistant_tokens": 5}
THREE_DRAFTS: Final = {"max_ngram_size": 3, "num_assistant_tokens": 3}


def load(options: PeerOptions) -> dict[str, Mode]:
    """A pipeline for each precision of the activations, with and without prompt lookup.

    As built, OpenVINO computes in bf16 where the processor can. With the hint f32 it quantises the activations of 8-bit
    weights to 8 bits, which is faster on some processors.
    """
    int8 = {
        "INFERENCE_NUM_THREADS": options.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    lookup = _pipeline(options, int8, prompt_lookup=True)
    return {
        "baseline": _mode(_pipeline(options, int8), options),
        "baseline, as built": _mode(_pipeline(options, {}), options),
        "lookup 3, 5 drafts": _mode(lookup, options, **FIVE_DRAFTS),
        "lookup 3, 3 drafts": _mode(lookup, options, **THREE_DRAFTS),
        "lookup 3, 5 drafts, as built": _mode(_pipeline(options, {}, prompt_lookup=True), options, **FIVE_DRAFTS),
    }


def _pipeline(
    options: PeerOptions, properties: dict[str, Any], *, prompt_lookup: bool = False
) -> openvino_genai.LLMPipeline:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # every prompt is read from its first token
    return openvino_genai.LLMPipeline(
        str(options.model), "CPU", scheduler_config=scheduler, prompt_lookup=prompt_lookup, **properties
    )


def _mode(pipeline: openvino_genai.LLMPipeline, options: PeerOptions, **settings: Any) -> Mode:
    config = openvino_genai.GenerationConfig(
        max_new_tokens=options.max_new_tokens, do_sample=False, stop_token_ids=set(options.eos_token_ids), **settings
    )

    def answer(prompt: list[int]) -> PeerAnswer:
        token_ids = openvino.Tensor(np.asarray([prompt], dtype=np.int64))
        started = time.perf_counter()
        result = pipeline.generate(token_ids, config)
        seconds = time.perf_counter() - started
        prefill_seconds = result.perf_metrics.get_ttft().mean / 1e3
        return PeerAnswer(
            token_ids=tuple(result.tokens[0]), prefill_seconds=prefill_seconds, decode_seconds=seconds - prefill_seconds
        )

    return answer


if __name__ == "__main__":
    serve(load, packages=("openvino-genai", "openvino"))
