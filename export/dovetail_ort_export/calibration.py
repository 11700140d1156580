"""What a quantisation has to know of a model's activations: how large they become, over which text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from dovetail_ort_export.equalization import Rotation
from dovetail_ort_export.export_options import LEAST_CALIBRATION_TOKENS
from dovetail_ort_export.source import Source
from dovetail_ort_export.turns import TokenIds, Turns
from dovetail_ort_export.weights import float32_leaves
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.chat_template import ChatTemplate
from dovetail_ort_runtime.errors import InputError, SourceError
from dovetail_ort_runtime.user_text import read_text_file

# What is measured of a module's input and output, each (T, ...) float32.
Rows = Callable[[Any, Tensor, Tensor], FloatArray]

_LARGEST_BYTES: Final = 64 << 20
_TEXT_TOKENS: Final = 512
_NUM_PARALLEL: Final = 16
_USER_TOKENS: Final = 32
_ANSWER_TOKENS: Final = 64


def calibration_texts(source: Source, path: Path | None, num_tokens: int, seed: int) -> list[TokenArray]:
    """Texts of `num_tokens` tokens together, fewer if the file ends earlier, each (T,) int64.

    The model writes them, with `seed`, if there is no UTF-8 file to read.

    Raises:
        InputError: the file is not text, too large, or shorter than `LEAST_CALIBRATION_TOKENS` tokens.
    """
    texts = write_conversations(source, seed) if path is None else _pieces(source, path)
    kept: list[TokenArray] = []
    while (left := num_tokens - sum(map(len, kept))) > 0 and (text := next(texts, None)) is not None:
        kept.append(text[:left])
    return kept


def _pieces(source: Source, path: Path) -> Iterator[TokenArray]:
    ids = source.text.tokenizer.encode(_read(path), add_special_tokens=False).ids
    if len(ids) < LEAST_CALIBRATION_TOKENS:
        raise InputError(
            f"the calibration text must have {LEAST_CALIBRATION_TOKENS} tokens or more, got {len(ids)} in "
            f"{str(path)!r}; give a longer file, or none, and the model writes its own"
        )
    size = min(_TEXT_TOKENS, int(source.model.config.max_position_embeddings))
    return (np.asarray(ids[start : start + size], dtype=np.int64) for start in range(0, len(ids), size))


def _read(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > _LARGEST_BYTES:
            raise InputError(
                f"the calibration text must have {_LARGEST_BYTES >> 20} MB at most, got {size >> 20} MB in "
                f"{str(path)!r}; a part of it is enough"
            )
    except OSError as error:
        raise InputError(f"the calibration text must be a readable UTF-8 file, got: {error}") from error
    text = read_text_file(path, "the calibration text")
    if "\0" in text:
        raise InputError(f"the calibration text must be text, got NUL characters in {str(path)!r}")
    return text


def write_conversations(source: Source, seed: int) -> Iterator[TokenArray]:
    """Conversations without end, one at a time, each (T,) int64.

    The model is given its template's opening of the user's turn and samples what a user might ask (Magpie, arXiv
    2406.08464), then its own answer, both at temperature 1. A model without a template continues the empty text.
    Torch's own random state stays as it is.
    """
    turns = _turns(source)
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            conversations = _answered_openings(source, turns) if turns.opening else _continued_nothing(source)
            seed += 1
        yield from (np.asarray(conversation, dtype=np.int64) for conversation in conversations if conversation)


def _answered_openings(source: Source, turns: Turns) -> list[TokenIds]:
    questions = _sample(source, [turns.opening] * _NUM_PARALLEL, _USER_TOKENS)
    prompts = [turns.question(source.text.tokenizer.decode(question)) for question in questions]
    answers = _sample(source, prompts, _ANSWER_TOKENS)
    return [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]


def _continued_nothing(source: Source) -> list[TokenIds]:
    bos = source.text.tokenizer.token_to_id(source.text.special_tokens.get("bos_token", ""))
    start = [source.text.eos_token_ids[0] if bos is None else bos]
    return [start + text for text in _sample(source, [start] * _NUM_PARALLEL, _ANSWER_TOKENS)]


def _turns(source: Source) -> Turns:
    text = source.text
    template = None if text.chat_template is None else ChatTemplate(text.chat_template, text.special_tokens)
    return Turns(template, lambda text: source.text.tokenizer.encode(text, add_special_tokens=False).ids)


def _sample(source: Source, prompts: Sequence[TokenIds], max_new_tokens: int) -> list[TokenIds]:
    """Continuations up to the end token, exclusive; prompts are padded on the left."""
    ends = list(source.text.eos_token_ids)
    width = max(map(len, prompts))
    room = int(source.model.config.max_position_embeddings) - width
    if room < 1:
        return [[] for _ in prompts]
    padded = [[ends[0]] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    num_new = min(max_new_tokens, room)
    settings = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=num_new, eos_token_id=ends, pad_token_id=ends[0]
    )
    rows = source.model.generate(torch.tensor(padded), attention_mask=torch.tensor(mask), generation_config=settings)
    return [list(takewhile(lambda token: token not in ends, row)) for row in rows[:, width:].tolist()]


def activation_maxima(model: Any, texts: Iterable[TokenArray]) -> dict[str, FloatArray]:
    """Largest magnitude of each channel over texts (T,) int64, each read from position 0, computed in float32.

    Returns:
        By module name: what each block norm gives before its weight, rotated by `Rotation(E)`, (E,) float32; and what
        each output projection reads, (H * D,) float32.

    Raises:
        SourceError: an activation is not finite.
    """
    rotation = Rotation(model.config.hidden_size)

    def normalised(norm: Any, x: Tensor, _: Tensor) -> FloatArray:
        return rotation.apply((x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)).numpy())

    rows: dict[str, Rows] = {
        "input_layernorm": normalised,
        "post_attention_layernorm": normalised,
        "o_proj": lambda _, x, __: x.numpy(),
    }
    observed = {
        name: (module, rows[part])
        for name, module in model.named_modules()
        if (part := name.rpartition(".")[2]) in rows
    }
    return _maxima(model, texts, observed, "activations", "export with --int8-format block")


def cache_maxima(model: Any, texts: Iterable[TokenArray]) -> dict[str, FloatArray]:
    """Largest magnitude of each channel of keys and values, measured in the same way.

    Returns:
        (Hkv * D,) float32 by `{block}.key` and `{block}.value`. Keys are those in the cache, with rotary embedding:
        channels i and i + D / 2 of a head turn as a pair, so that both have the pair's largest length.

    Raises:
        SourceError: a key or value is not finite.
    """
    scaling = model.model.rotary_emb.attention_scaling

    def turning(_: Any, __: Tensor, keys: Tensor) -> FloatArray:
        # (T, Hkv * D), or behind a norm of their own (T, Hkv, D).
        pairs = keys.reshape(len(keys), -1, 2, model.model.layers[0].self_attn.head_dim // 2)
        lengths: Tensor = pairs.norm(dim=2, keepdim=True).expand_as(pairs).flatten(1)
        largest: FloatArray = (lengths * scaling).numpy()
        return largest

    observed: dict[str, tuple[nn.Module, Rows]] = {}
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        observed[f"{index}.key"] = (getattr(attention, "k_norm", attention.k_proj), turning)
        observed[f"{index}.value"] = (attention.v_proj, lambda _, __, values: values.numpy())
    return _maxima(model, texts, observed, "cache", "leave quantize-cache out of the recipe")


@torch.no_grad()
def _maxima(
    model: Any, texts: Iterable[TokenArray], observed: Mapping[str, tuple[nn.Module, Rows]], what: str, remedy: str
) -> dict[str, FloatArray]:
    maxima: dict[str, FloatArray] = {}

    def record(name: str, rows: FloatArray) -> None:
        largest = np.abs(rows).max(axis=0)
        if not np.isfinite(largest).all():
            raise SourceError(
                f"the {what} of {name} must be finite, got {largest[~np.isfinite(largest)][0]}; "
                f"the checkpoint may be damaged: {remedy}"
            )
        maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest

    with float32_leaves(model), ExitStack() as hooks:
        for name, (module, rows) in observed.items():
            hooks.enter_context(
                module.register_forward_hook(
                    lambda leaf, inputs, output, name=name, rows=rows: record(
                        name, rows(leaf, inputs[0][0].float(), output[0].float())
                    )
                )
            )
        for token_ids in texts:
            model(torch.from_numpy(token_ids)[None], use_cache=False)
    return maxima
