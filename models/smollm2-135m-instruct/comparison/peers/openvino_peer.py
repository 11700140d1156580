"""OpenVINO GenAI on the CPU: plain and with its prompt lookup."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import openvino
import openvino_genai
from peer_program import Mode, PeerAnswer, PeerOptions, serve

LOOKUP: Final[dict[str, dict[str, Any]]] = {
    "lookup 3, 5 drafts": {"max_ngram_size": 3, "num_assistant_tokens": 5},
    "lookup 3, 3 drafts": {"max_ngram_size": 3, "num_assistant_tokens": 3},
}


def load(options: PeerOptions) -> dict[str, Mode]:
    """Two pipelines, for prompt lookup belongs to the pipeline."""
    plain, lookup = _pipeline(options, prompt_lookup=False), _pipeline(options, prompt_lookup=True)
    return {
        "plain": _mode(plain, options, {}),
        **{name: _mode(lookup, options, settings) for name, settings in LOOKUP.items()},
    }


def _pipeline(options: PeerOptions, *, prompt_lookup: bool) -> openvino_genai.LLMPipeline:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # every prompt is read from its first token
    return openvino_genai.LLMPipeline(
        str(options.model),
        "CPU",
        scheduler_config=scheduler,
        prompt_lookup=prompt_lookup,
        INFERENCE_NUM_THREADS=options.threads,
        PERFORMANCE_HINT="LATENCY",
    )


def _mode(pipeline: openvino_genai.LLMPipeline, options: PeerOptions, settings: dict[str, Any]) -> Mode:
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
