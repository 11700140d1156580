"""onnxruntime-genai 0.18 as a peer: greedy generation from ids, plain and with its n-gram speculation."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime_genai as og


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerAnswer:
    """One answer.

    Attributes:
        token_ids: new tokens, an end-of-text token included.
        prefill_seconds: prompt and first token.
        decode_seconds: all other tokens.
    """

    token_ids: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float


class GenaiPeer:
    """A model of onnxruntime-genai.

    Args:
        directory: what its builder wrote.
        threads: intra-op threads, or None for what the builder's configuration gives.
        eos_token_ids: tokens that end an answer.
    """

    def __init__(self, directory: Path, *, threads: int | None, eos_token_ids: Sequence[int]) -> None:
        config = og.Config(str(directory))
        changes: dict[str, object] = {"eos_token_id": list(eos_token_ids)}
        if threads is not None:
            changes["decoder"] = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": changes}))
        self._model = og.Model(config)

    def generate(self, prompt: Sequence[int], max_new_tokens: int, speculation: dict[str, int] | None) -> PeerAnswer:
        """Answer greedily; `speculation` are the arguments of `set_speculative_options`, None decodes plainly."""
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(do_sample=False, max_length=len(prompt) + max_new_tokens)
        if speculation is not None:
            parameters.set_speculative_options(**speculation)
        generator = og.Generator(self._model, parameters)
        started = time.perf_counter()
        generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        while not generator.is_done():
            generator.generate_next_token()
        ended = time.perf_counter()
        token_ids = [int(token_id) for token_id in generator.get_sequence(0)[len(prompt) :]]
        if len(token_ids) < max_new_tokens:  # the end-of-text token took a step but is left out of the sequence
            token_ids.append(int(generator.get_next_tokens()[0]))
        return PeerAnswer(token_ids=tuple(token_ids), prefill_seconds=first - started, decode_seconds=ended - first)
