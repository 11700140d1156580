"""A text with gaps, what transformers says of it, and GGUF files of tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

_SHORT_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Text:
    """Twelve tokens; `far` stand over 400 positions, the gaps of `near` are shorter than a window of 12."""

    token_ids: NDArray[np.int64]
    far: NDArray[np.int64]
    near: NDArray[np.int64]


@pytest.fixture(scope="session")
def text() -> Text:
    return Text(
        token_ids=np.random.default_rng(3).integers(3, 384, 12),
        far=np.array([0, 1, 2, 3, 150, 151, 152, 153, 400, 401, 402, 403]),
        near=np.array([0, 1, 2, 3, 8, 9, 10, 11, 20, 21, 22, 23]),
    )


@pytest.fixture(scope="session")
def reference(torch, tiny_model, text) -> Callable[..., Any]:
    """`reference(family, positions, **settings)`: logits (T, V) of the text by transformers, in float64.

    The attention mask hides the gaps, so that transformers counts windows in positions.
    """

    def compute(family: str, positions: Any, **settings: Any) -> Any:
        model = tiny_model(family, **settings).double()
        model.set_attn_implementation("eager")
        token_ids = torch.zeros(1, positions[-1] + 1, dtype=torch.int64)
        mask = torch.zeros_like(token_ids)
        token_ids[0, positions] = torch.from_numpy(text.token_ids)
        mask[0, positions] = 1
        with torch.no_grad():
            logits = model(token_ids, attention_mask=mask, position_ids=torch.arange(len(mask[0]))[None]).logits
        return logits[0, positions].numpy()

    return compute


@pytest.fixture(scope="session")
def distance() -> Callable[[Any, Any], float]:
    """`distance(found, expected)`: the largest difference of logits as a share of the expected ones' spread."""
    return lambda found, expected: float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.fixture(scope="session")
def edit_config() -> Callable[..., None]:
    """`edit_config(directory, drop=(), **changes)`: change the values of a config.json."""

    def edit(directory: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
        path = directory / "config.json"
        kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
        path.write_text(json.dumps(kept | changes))

    return edit


@pytest.fixture
def gguf_file(tmp_path, tiny_model) -> Callable[..., Path]:
    """`gguf_file(family, metadata, tensors, quantised, parts, **settings)`: a tiny model as llama.cpp stores it.

    `metadata` and `tensors` are added to what every file has; the architecture is `llama` for Mistral too. In several
    parts, the tensors are dealt out in turn.
    """

    def write(
        family: str,
        *,
        metadata: Any = None,
        tensors: Any = None,
        architecture: str = "",
        quantised: Any = None,
        parts: int = 1,
        **settings: Any,
    ) -> Path:
        model = tiny_model(family, **settings)
        architecture = architecture or ("llama" if family == "mistral" else family)
        stored = _gguf_tensors(model, architecture) | (tensors or {})
        paths = [tmp_path / ("m.gguf" if parts == 1 else f"m-{n:05}-of-{parts:05}.gguf") for n in range(1, parts + 1)]
        for part, path in enumerate(paths):
            writer = gguf.GGUFWriter(path, architecture)
            if part == 0:
                _add_metadata(writer, architecture, model.config, metadata or {})
            for name in list(stored)[part::parts]:
                _add_tensor(writer, name, stored[name], quantised)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        return paths[0]

    return write


def _add_tensor(writer: Any, name: str, values: Any, quantised: Any) -> None:
    values = np.ascontiguousarray(values, dtype=np.float32)
    if quantised is None or values.ndim == 1:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quantize(values, quantised), raw_dtype=quantised)


def _add_metadata(writer: Any, architecture: str, config: Any, more: dict[str, Any]) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    theta = getattr(config, "rope_theta", None)
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": size,
        "rope.freq_base": float(theta if theta is not None else config.rope_parameters["rope_theta"]),
    }
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in (values | more).items():
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)


def _gguf_tensors(model: Any, architecture: str) -> dict[str, Any]:
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    stored = {}
    for name, parameter in model.named_parameters():  # a tied head is not among them
        values = parameter.detach().numpy()
        if name in _NAMES:
            stored[_NAMES[name]] = values
            continue
        _, _, block, part, kind = name.replace("self_attn.", "self_attn:").replace("mlp.", "mlp:").split(".")
        short = _SHORT_NAMES[part.replace(":", ".")]
        if architecture == "llama" and short in heads:
            # Rows i and i + D / 2 of a head become neighbours, as llama.cpp turns neighbours.
            values = values.reshape(heads[short], 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        stored[f"blk.{block}.{short}.{kind}"] = values
    return stored
