"""Random draft heads, written as each publisher writes them, and what they draft by the published formulas.

The formulas are computed in float64 with numpy, from the tensors alone: nothing of the exporter is used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EAGLE3_DIALECTS = (
    "safeailab",
    "specforge",
    "angelslim",
    "speculators",
    "speculators-3.1",
    "model-optimizer",
    "deepspec",
    "truncated",
)


@dataclass
class RandomHead:
    """A random EAGLE head with small sizes.

    E is the width of the head, `target_size` that of its target. `levels` are those of the target that it reads.
    """

    size: int = 64
    target_size: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    inner: int = 96
    vocabulary: int = 384
    draft_vocabulary: int = 96
    num_layers: int = 1
    levels: tuple[int, ...] = (0, 1, 2)
    theta: float = 10000.0
    epsilon: float = 1e-6
    norm_before_residual: bool = False
    feeds_back_norm: bool = False
    level_norm: str = "none"
    qk_norm: bool = False
    bias: bool = False
    every_bias: bool = False
    own_embedding: bool = False
    own_lm_head: bool = True
    form: str = "eagle3"
    seed: int = 1
    tensors: dict[str, np.ndarray] = field(init=False)
    draft_token_ids: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        ids = self._random.permutation(self.vocabulary)[: self.draft_vocabulary]
        self.draft_token_ids = np.sort(ids)
        self.tensors = self._eagle3() if self.form == "eagle3" else self._eagle()

    def _matrix(self, outputs: int, inputs: int) -> np.ndarray:
        return self._random.standard_normal((outputs, inputs)).astype(np.float32) / np.float32(inputs**0.5)

    def _norm(self, size: int) -> np.ndarray:
        return self._random.uniform(0.5, 1.5, size).astype(np.float32)

    def _bias(self, size: int) -> np.ndarray:
        return self._random.uniform(-0.5, 0.5, size).astype(np.float32)

    def _layer(self, inputs: int) -> dict[str, np.ndarray]:
        width, kv_width = self.heads * self.head_size, self.kv_heads * self.head_size
        layer = {
            "self_attn.q_proj.weight": self._matrix(width, inputs),
            "self_attn.k_proj.weight": self._matrix(kv_width, inputs),
            "self_attn.v_proj.weight": self._matrix(kv_width, inputs),
            "self_attn.o_proj.weight": self._matrix(self.size, width),
            "post_attention_layernorm.weight": self._norm(self.size),
            "mlp.gate_proj.weight": self._matrix(self.inner, self.size),
            "mlp.up_proj.weight": self._matrix(self.inner, self.size),
            "mlp.down_proj.weight": self._matrix(self.size, self.inner),
        }
        if self.bias:
            for name, length in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)):
                layer[f"self_attn.{name}.bias"] = self._bias(length)
        if self.every_bias:
            layer["self_attn.o_proj.bias"] = self._bias(self.size)
            for name, length in (("gate_proj", self.inner), ("up_proj", self.inner), ("down_proj", self.size)):
                layer[f"mlp.{name}.bias"] = self._bias(length)
        if self.qk_norm:
            layer["self_attn.q_norm.weight"] = self._norm(self.head_size)
            layer["self_attn.k_norm.weight"] = self._norm(self.head_size)
        return layer

    def _eagle3(self) -> dict[str, np.ndarray]:
        k = len(self.levels)
        tensors = {"fc.weight": self._matrix(self.size, k * self.target_size), "norm.weight": self._norm(self.size)}
        if self.every_bias:
            tensors["fc.bias"] = self._bias(self.size)
        if self.level_norm == "all":
            tensors["input_norm.weight"] = self._norm(k * self.target_size)
        if self.level_norm == "each":
            tensors |= {f"fc_norm.{index}.weight": self._norm(self.target_size) for index in range(k)}
        for index in range(self.num_layers):
            layer = self._layer(self.size if index else 2 * self.size)
            layer["input_layernorm.weight"] = self._norm(self.size)
            if not index:
                layer["hidden_norm.weight"] = self._norm(self.size)
            tensors |= {f"layers.{index}.{name}": values for name, values in layer.items()}
        if self.own_lm_head:
            tensors["lm_head.weight"] = self._matrix(self.draft_vocabulary, self.size)
        if self.own_embedding:
            tensors["embed_tokens.weight"] = self._matrix(self.vocabulary, self.size)
        if self.draft_vocabulary < self.vocabulary:
            tensors["d2t"] = self.draft_token_ids - np.arange(self.draft_vocabulary)
            tensors["t2d"] = np.isin(np.arange(self.vocabulary), self.draft_token_ids)
        return tensors

    def _eagle(self) -> dict[str, np.ndarray]:
        tensors = {"fc.weight": self._matrix(self.size, 2 * self.size), "fc.bias": self._bias(self.size)}
        for index in range(self.num_layers):
            layer = self._layer(self.size)
            if index:
                layer["input_layernorm.weight"] = self._norm(self.size)
            tensors |= {f"layers.{index}.{name}": values for name, values in layer.items()}
        if self.own_embedding:
            tensors["embed_tokens.weight"] = self._matrix(self.vocabulary, self.size)
        return tensors

    def settings(self) -> dict[str, Any]:
        """The keys that all configurations share, in transformers' words."""
        return {
            "hidden_size": self.size,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "num_hidden_layers": self.num_layers,
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.theta,
            "hidden_act": "silu",
            "max_position_embeddings": 128,
            "vocab_size": self.vocabulary,
            "model_type": "llama",
            "torch_dtype": "float16",
        }


def dialect_head(dialect: str, **sizes: Any) -> RandomHead:
    """A random head with the parts that heads of a dialect have."""
    parts: dict[str, dict[str, Any]] = {
        "speculators": {"norm_before_residual": True, "own_embedding": True, "level_norm": "all"},
        "speculators-3.1": {"feeds_back_norm": True, "own_embedding": True, "level_norm": "each", "qk_norm": True},
        "model-optimizer": {"own_lm_head": True, "draft_vocabulary": 384, "num_layers": 2},
        "deepspec": {
            "levels": (0, 1, 2, 3, 4),
            "draft_vocabulary": 384,
            "own_embedding": True,
            "qk_norm": True,
        },
        "angelslim": {"bias": True, "theta": 1e6},
        "eagle": {"form": "eagle", "draft_vocabulary": 384, "own_embedding": True},
    }
    return RandomHead(**{**parts.get(dialect, {}), **sizes})


def write_dialect(head: RandomHead, dialect: str, directory: Path, *, files: str = "safetensors", **keys: Any) -> Path:
    """Write a head as a publisher does; `keys` are added to the configuration, and those of None left out."""
    config = {**_config(head, dialect), **keys}
    config = {key: value for key, value in config.items() if value is not None}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    write_tensors(_renamed(head, dialect), directory, files)
    return directory


def _config(head: RandomHead, dialect: str) -> dict[str, Any]:
    plain = {**head.settings(), "draft_vocab_size": head.draft_vocabulary}
    before = list(head.levels)
    after = [level - 1 for level in head.levels]
    if dialect == "safeailab":
        return {**plain, "architectures": ["LlamaForCausalLM"]}
    if dialect == "truncated":
        config = {**plain, "architectures": ["LlamaForCausalLM"], "truncated_vocab_size": head.draft_vocabulary}
        del config["draft_vocab_size"]
        return config
    if dialect == "specforge":
        return {
            **plain,
            "architectures": ["LlamaForCausalLMEagle3"],
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": before, "use_aux_hidden_state": True},
        }
    if dialect == "angelslim":
        return {
            **plain,
            "architectures": ["Eagle3LlamaForCausalLM"],
            "target_model_type": "qwen3",
            "aux_hidden_states_layer_ids": before,
            "tie_word_embeddings": True,
        }
    if dialect.startswith("speculators"):
        layer = {key: value for key, value in head.settings().items() if key not in ("rope_theta", "torch_dtype")}
        layer["model_type"] = "qwen3" if head.qk_norm else "llama"
        layer["rope_parameters"] = {"rope_theta": head.theta, "rope_type": "default"}
        return {
            "architectures": ["Eagle3DraftModel"],
            "model_type": "speculator_model",
            "draft_vocab_size": head.draft_vocabulary,
            "dtype": "float32",
            "eagle_aux_hidden_state_layer_ids": before,
            "embed_requires_grad": False,
            "norm_before_residual": head.norm_before_residual,
            "norm_before_fc": head.level_norm == "all",
            "fc_norm": head.level_norm == "each",
            "norm_output": head.feeds_back_norm,
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
                "verifier": {"name_or_path": None, "architectures": []},
            },
            "speculators_model_type": "eagle3",
            "speculators_version": "0.9.0",
            "target_hidden_size": None,
            "transformer_layer_config": layer,
        }
    if dialect == "model-optimizer":
        return {
            **plain,
            "architectures": ["LlamaForCausalLMEagle3"],
            "rope_scaling": {"rope_type": "default", "rope_theta": head.theta},
            "eagle_config": {
                "eagle_aux_hidden_state_layer_ids": after,
                "use_aux_hidden_state": True,
                "use_input_layernorm_in_first_layer": True,
                "use_last_layernorm": True,
                "use_mtp_layernorm": False,
                "next_layer_regular": True,
                "parallel_draft_step": 1,
                "parallel_draft_heads_num_layers": 1,
            },
        }
    if dialect == "deepspec":
        config = {
            **plain,
            "architectures": ["Qwen3Eagle3Model"],
            "model_type": "qwen3",
            "target_layer_ids": after,
            "ttt_length": 7,
            "step_loss_decay": 0.8,
            "draft_num_hidden_layers": head.num_layers,
            "layer_types": ["full_attention"] * head.num_layers,
            "tie_word_embeddings": False,
        }
        del config["draft_vocab_size"]
        return config
    assert dialect == "eagle"
    config = {**plain, "architectures": ["LlamaForCausalLM"]}
    del config["draft_vocab_size"]
    return config


def _renamed(head: RandomHead, dialect: str) -> dict[str, np.ndarray]:
    if dialect not in ("safeailab", "specforge", "angelslim", "truncated") or head.num_layers > 1:
        return head.tensors
    return {name.replace("layers.0.", "midlayer."): values for name, values in head.tensors.items()}


def write_tensors(tensors: dict[str, np.ndarray], directory: Path, files: str = "safetensors") -> None:
    """Write tensors as one safetensors file, as two with an index, or as a PyTorch file."""
    import torch
    from safetensors.numpy import save_file

    if files == "bin":
        values = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}
        torch.save(values, directory / "pytorch_model.bin")
        return
    if files == "safetensors":
        save_file(tensors, directory / "model.safetensors")
        return
    assert files == "sharded"
    names = sorted(tensors)
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{part}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, directory / file)
        weight_map |= dict.fromkeys(chosen, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


class Oracle:
    """What a head drafts, by the published formulas, in float64. Everything is read afresh at each step.

    Sources: EAGLE `cnets.py` and `cnets1.py`, speculators `models/eagle3/core.py`.
    """

    def __init__(self, head: RandomHead, embedding: np.ndarray, lm_head: np.ndarray) -> None:
        """`embedding` (V, E) and `lm_head` (V, E) are the target's, for a head without its own."""
        self.head = head
        self.t = {name: values.astype(np.float64) for name, values in head.tensors.items() if name != "t2d"}
        own = self.t.get("embed_tokens.weight")
        self.embedding = embedding.astype(np.float64) if own is None else own
        self.lm_head = self.t.get("lm_head.weight")
        if self.lm_head is None:
            self.lm_head = lm_head.astype(np.float64)[head.draft_token_ids]

    def features(self, levels: np.ndarray) -> np.ndarray:
        """g (n, E) of levels side by side (n, k * E of the target)."""
        x = levels.astype(np.float64)
        if self.head.level_norm == "all":
            x = self._norm(x, "input_norm.weight")
        if self.head.level_norm == "each":
            parts = np.split(x, len(self.head.levels), axis=-1)
            x = np.concatenate(
                [self._norm(part, f"fc_norm.{index}.weight") for index, part in enumerate(parts)], axis=-1
            )
        return self._product(x, "fc")

    def states(self, features: np.ndarray, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is fed back (n, E) and the logits (n, Vd) of n rows, row i with feature i and the token after it."""
        features = features.astype(np.float64)
        embedded = self.embedding[token_ids]
        if self.head.form == "eagle":
            x = self._product(np.concatenate([embedded, features], axis=-1), "fc")
            for index in range(self.head.num_layers):
                normed = x if index == 0 else self._norm(x, f"layers.{index}.input_layernorm.weight")
                x = self._rest(x, normed, index)
            return x, x @ self.lm_head.T
        normed = self._norm(features, "layers.0.hidden_norm.weight")
        residual = normed if self.head.norm_before_residual else features
        first = np.concatenate([self._norm(embedded, "layers.0.input_layernorm.weight"), normed], axis=-1)
        x = self._rest(residual, first, 0)
        for index in range(1, self.head.num_layers):
            x = self._rest(x, self._norm(x, f"layers.{index}.input_layernorm.weight"), index)
        last = self._norm(x, "norm.weight")
        return (last if self.head.feeds_back_norm else x), last @ self.lm_head.T

    def chain(self, features: np.ndarray, token_ids: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """A chain behind the last of `features` (n, E), over n + num_steps - 1 given tokens: fed back, logits."""
        read = features.astype(np.float64)
        fed_back, logits = [], []
        for step in range(num_steps):
            states, scores = self.states(read, token_ids[: len(features) + step])
            fed_back.append(states[-1])
            logits.append(scores[-1])
            read = np.vstack([read, states[-1]])
        return np.array(fed_back), np.array(logits)

    def _norm(self, x: np.ndarray, weight: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.head.epsilon) * self.t[weight]

    def _product(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.t[f"{name}.weight"].T + self.t.get(f"{name}.bias", 0.0)

    def _rest(self, residual: np.ndarray, x: np.ndarray, index: int) -> np.ndarray:
        name = f"layers.{index}"
        a = residual + self._attention(x, f"{name}.self_attn")
        normed = self._norm(a, f"{name}.post_attention_layernorm.weight")
        gate = self._product(normed, f"{name}.mlp.gate_proj")
        up = self._product(normed, f"{name}.mlp.up_proj")
        return a + self._product(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj")

    def _attention(self, x: np.ndarray, name: str) -> np.ndarray:
        head = self.head
        query, key, value = (self._heads(x, f"{name}.{part}_proj") for part in "qkv")
        if head.qk_norm:
            query, key = self._norm(query, f"{name}.q_norm.weight"), self._norm(key, f"{name}.k_norm.weight")
        query, key = self._turned(query), self._turned(key)
        shared = head.heads // head.kv_heads
        key, value = (np.repeat(part, shared, axis=1) for part in (key, value))
        scores = np.einsum("qhd,khd->hqk", query, key) / head.head_size**0.5
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, value).reshape(len(x), -1)
        return self._product(mixed, f"{name}.o_proj")

    def _heads(self, x: np.ndarray, name: str) -> np.ndarray:
        return self._product(x, name).reshape(len(x), -1, self.head.head_size)

    def _turned(self, heads: np.ndarray) -> np.ndarray:
        half = self.head.head_size // 2
        angles = np.arange(len(heads))[:, None, None] / self.head.theta ** (np.arange(half) / half)
        first, second = heads[..., :half], heads[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
