"""A GGUF writer for tiny random models, as llama.cpp's converters would write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = {
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
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes, in the order of GPT-2's vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


@pytest.fixture(scope="session")
def tiny_vocabulary() -> Mapping[str, Any]:
    """Metadata of a byte-level tokenizer with three control tokens and a few merges."""
    merges = ["Ġ t", "h e", "Ġt he", "Ġ Ġ", "1 2", "12 3", "i n"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_alphabet()]
    tokens += [merge.replace(" ", "") for merge in merges]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, *[1] * (len(tokens) - 3)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHATML,
    }


@pytest.fixture(scope="session")
def metadata_of(tiny_vocabulary: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """`metadata_of(model, architecture, settings)`: what a converter writes, `settings` under `ARCHITECTURE.`."""

    def make(model: Any, architecture: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        config = model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        own = {
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": size,
            "attention.value_length": size,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "rope.freq_base": theta_of(config),
            "rope.dimension_count": size,
            "vocab_size": config.vocab_size,
        }
        own |= settings
        return {
            "general.architecture": architecture,
            "general.name": "tiny",
            "general.file_type": 0,
            **{f"{architecture}.{key}": value for key, value in own.items() if value is not None},
            **tiny_vocabulary,
        }

    return make


def theta_of(config: Any) -> float:
    """The rotary base in the words of either release of transformers."""
    parameters = getattr(config, "rope_parameters", None)
    return float(parameters["rope_theta"] if parameters else config.rope_theta)


@pytest.fixture(scope="session")
def tensors_of() -> Callable[[Any, str], dict[str, np.ndarray]]:
    """`tensors_of(model, architecture)`: float32 by GGUF name; rows of llama's query and key in llama.cpp's order."""

    def make(model: Any, architecture: str) -> dict[str, np.ndarray]:
        found = {}
        for name, value in model.state_dict().items():
            array = value.float().numpy()
            if name == "lm_head.weight":
                if not model.config.tie_word_embeddings:
                    found["output.weight"] = array
                continue
            if name in OUTER:
                found[OUTER[name]] = array
                continue
            _, _, block, rest = name.split(".", 3)
            part, _, kind = rest.rpartition(".")
            if architecture == "llama" and NAMES[part] in ("attn_q", "attn_k"):
                config = model.config
                heads = config.num_attention_heads if NAMES[part] == "attn_q" else config.num_key_value_heads
                array = neighbours_from_halves(array, heads)
            found[f"blk.{block}.{NAMES[part]}.{kind}"] = array
        return found

    return make


def neighbours_from_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head, those of the first half and of the second in turn."""
    size = rows.shape[0] // heads
    order = [
        head * size + place + half for head in range(heads) for place in range(size // 2) for half in (0, size // 2)
    ]
    return rows[order]


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    """`write_gguf(path, metadata, tensors, kinds={})`: a file; `kinds` gives the type of a tensor, F32 otherwise."""
    import gguf

    def value_type(value: Any) -> gguf.GGUFValueType:
        types = gguf.GGUFValueType
        by_class = {bool: types.BOOL, int: types.UINT32, float: types.FLOAT32, str: types.STRING, list: types.ARRAY}
        return by_class[type(value)]

    def element_type(value: Any) -> gguf.GGUFValueType | None:
        if not isinstance(value, list):
            return None
        return gguf.GGUFValueType.INT32 if isinstance(value[0], int) else value_type(value[0])

    def make(
        path: Path,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    ) -> Path:
        writer = gguf.GGUFWriter(str(path), metadata["general.architecture"])
        for key, value in metadata.items():
            if key != "general.architecture":
                writer.add_key_value(key, value, value_type(value), element_type(value))
        for name, array in tensors.items():
            kind = (kinds or {}).get(name, gguf.GGMLQuantizationType.F32)
            if array.dtype == np.uint8:  # blocks of the type, as they are
                writer.add_tensor(name, array, raw_dtype=kind)
            else:
                writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


@pytest.fixture
def gguf_of(
    tmp_path: Path, tiny_model: Any, metadata_of: Any, tensors_of: Any, write_gguf: Any
) -> Callable[..., tuple[Path, Any]]:
    """`gguf_of(architecture, settings={}, drop=(), more={}, tensors={}, **model settings)`: a file and its model."""

    def make(
        architecture: str = "llama",
        settings: Mapping[str, Any] | None = None,
        drop: Iterable[str] = (),
        more: Mapping[str, Any] | None = None,
        tensors: Mapping[str, np.ndarray] | None = None,
        **model_settings: Any,
    ) -> tuple[Path, Any]:
        model = tiny_model(architecture, **model_settings)
        metadata = {**metadata_of(model, architecture, settings or {}), **(more or {})}
        kept = {key: value for key, value in metadata.items() if key not in tuple(drop)}
        written = {**tensors_of(model, architecture), **(tensors or {})}
        kept_tensors = {name: array for name, array in written.items() if name not in tuple(drop)}
        return write_gguf(tmp_path / "tiny.gguf", kept, kept_tensors), model

    return make
