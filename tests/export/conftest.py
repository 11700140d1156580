"""A target with enough blocks for three levels, and heads of EAGLE-3's form that are right by construction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle

# Those of the tiny targets in the conftest above.
DIMENSIONS = {"vocab_size": 384, "hidden_size": 64}

NUM_BLOCKS = 6
LEVELS = (2, 3, 5)
ROPE_BASE = 5000.0
HEAD = {
    "hidden_size": 192,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_size": 48,
    "intermediate_size": 96,
    "norm_epsilon": 1e-5,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """A random network whose output layer was fitted to what a target writes.

    Attributes:
        network: the network.
        fusion: what makes features of levels.
        levels_read: numbers of the levels that it reads.
        embedding: (V, F), the head's own embedding.
        lm_head: (Vd, F), the fitted output layer.
        draft_token_ids: (Vd,) int64.
        texts: texts that it was fitted to.
        levels: numbers of the levels that the texts were written with.
        rotary: rotary positions of the network.
    """

    network: Any
    fusion: Any
    levels_read: tuple[int, ...]
    embedding: Any
    lm_head: Any
    draft_token_ids: Any
    texts: Any
    levels: Any
    rotary: Any


@pytest.fixture(scope="session")
def deep_bundle(tiny_source: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Native bundle of a tiny Llama of six blocks; shared by all: copy it before changing a file."""
    from dovetail_ort_export import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("deep") / "bundle"
    source = tiny_source("llama", num_hidden_layers=NUM_BLOCKS)
    return Path(export_bundle(str(source), out, ExportOptions(format="native")).directory)


@pytest.fixture(scope="session")
def fitted_head(torch: Any, deep_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FittedHead]:
    """`fitted_head(levels_read=LEVELS, **settings)`: a head of `deep_bundle`; settings are those of `Eagle3Config`."""
    from dovetail_ort_export.probing.target_states import texts_with_levels
    from dovetail_ort_export.writing.bundle_output import copy_without

    bundle = Bundle(deep_bundle)
    levels = range(NUM_BLOCKS + 1)
    folder = tmp_path_factory.mktemp("levels")
    copy_without(bundle, (), folder)
    texts = texts_with_levels(bundle, folder, levels)
    draft_token_ids = torch.from_numpy(np.unique(np.concatenate([text.token_ids for text in texts])))

    def make(levels_read: tuple[int, ...] = LEVELS, **settings: Any) -> FittedHead:
        head = _random(torch, levels_read, draft_token_ids, texts=texts, levels=levels, **settings)
        _fit(torch, head)
        return head

    return make


@pytest.fixture(scope="session")
def random_head(torch: Any) -> FittedHead:
    """A head that was fitted to nothing, for a tiny target of two blocks."""
    return _random(torch, (0, 1, 2), torch.arange(0, DIMENSIONS["vocab_size"], 2), texts=(), levels=())


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`published(head, dialect, **changes)`: directory of a fitted head as a publisher writes it; changes are keys of
    its configuration.
    """
    from safetensors.torch import save_file

    def write(head: FittedHead, dialect: str, **changes: Any) -> Path:
        directory = tmp_path_factory.mktemp(dialect)
        config = _CONFIGURATIONS[dialect](head) | changes
        (directory / "config.json").write_text(json.dumps(config))
        prefix = {"safeailab": "midlayer.", "speculators": "layers.0."}[dialect]
        save_file(_tensors(head, prefix), directory / "model.safetensors")
        return directory

    return write


def _random(
    torch: Any, levels_read: tuple[int, ...], draft_token_ids: Any, *, texts: Any, levels: Any, **settings: Any
) -> FittedHead:
    from dovetail_ort_export.heads.config import BlockConfig, Eagle3Config
    from dovetail_ort_export.heads.eagle3 import Eagle3Head
    from dovetail_ort_export.heads.level_fusion import LevelFusion, LevelFusionConfig

    torch.manual_seed(3)
    block = BlockConfig(**HEAD)
    width = block.hidden_size
    network = Eagle3Head(Eagle3Config(num_blocks=1, block=block, **settings)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            # Norms that turn a state, and blocks that count beside the residual.
            parameter.uniform_(0.2, 1.8) if parameter.dim() == 1 else parameter.normal_(std=0.1)
    fusion = LevelFusionConfig(
        num_levels=len(levels_read),
        level_size=DIMENSIONS["hidden_size"],
        feature_size=width,
        norm="none",
        norm_epsilon=block.norm_epsilon,
        bias=False,
    )
    return FittedHead(
        network=network,
        fusion=LevelFusion(fusion),
        levels_read=levels_read,
        embedding=torch.randn(DIMENSIONS["vocab_size"], width),
        lm_head=torch.randn(len(draft_token_ids), width),
        draft_token_ids=draft_token_ids,
        texts=texts,
        levels=levels,
        rotary=_rotary(torch, block.head_size),
    )


def _rotary(torch: Any, head_size: int) -> Any:
    from dovetail_ort_export.heads.rotary import RotaryTables

    angles = torch.outer(torch.arange(512.0), ROPE_BASE ** -(torch.arange(0, head_size, 2) / head_size))
    return RotaryTables(angles.cos(), angles.sin())


def _fit(torch: Any, head: FittedHead) -> None:
    """Least squares from the network's states to the tokens that the target wrote."""
    from dovetail_ort_export.heads.unrolling import unroll
    from dovetail_ort_export.probing.target_states import levels_of
    from dovetail_ort_export.training.batches import collate
    from dovetail_ort_export.training.conversation import Conversation

    inputs = []
    wanted = []
    with torch.no_grad():
        for text in head.texts:
            states = levels_of(text, head.levels)
            levels = torch.from_numpy(np.concatenate([states[level] for level in head.levels_read], axis=-1))
            features = head.fusion(levels).numpy()
            conversation = Conversation(
                token_ids=text.token_ids, prompt_length=text.prompt_length, hidden_states=features
            )
            batch = collate([conversation])
            embeddings = head.embedding[batch.next_token_ids]
            for predicted in unroll(head.network, batch.features, embeddings, head.rotary, 2):
                inputs.append(head.network.scored(predicted)[batch.in_answer][1:])
                wanted.append(batch.wanted_token_ids[batch.in_answer][1:])
        rows = torch.searchsorted(head.draft_token_ids, torch.cat(wanted))
        targets = torch.nn.functional.one_hot(rows, len(head.draft_token_ids)).float()
        solution = torch.linalg.lstsq(torch.cat(inputs), targets).solution
        head.lm_head.copy_(solution.T)


def _tensors(head: FittedHead, prefix: str) -> dict[str, Any]:
    tensors = {}
    for name, tensor in head.network.state_dict().items():
        tensors[name.replace("layers.0.", prefix)] = tensor
    tensors |= head.fusion.state_dict()
    tensors["embed_tokens.weight"] = head.embedding
    tensors["lm_head.weight"] = head.lm_head
    tensors["d2t"] = head.draft_token_ids - head.draft_token_ids.new_tensor(range(len(head.draft_token_ids)))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _layers() -> dict[str, Any]:
    return {
        "hidden_size": HEAD["hidden_size"],
        "intermediate_size": HEAD["intermediate_size"],
        "num_attention_heads": HEAD["num_heads"],
        "num_key_value_heads": HEAD["num_kv_heads"],
        "head_dim": HEAD["head_size"],
        "num_hidden_layers": 1,
        "rms_norm_eps": HEAD["norm_epsilon"],
        "max_position_embeddings": 64,
        "rope_theta": ROPE_BASE,
        "vocab_size": 384,
        "hidden_act": "silu",
    }


def _safeailab(head: FittedHead) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "draft_vocab_size": len(head.draft_token_ids),
        "target_hidden_size": 64,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [level - 1 for level in head.levels_read]},
        **_layers(),
    }


def _speculators(head: FittedHead) -> dict[str, Any]:
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": len(head.draft_token_ids),
        "target_hidden_size": 64,
        "norm_before_residual": True,
        "eagle_aux_hidden_state_layer_ids": list(head.levels_read),
        "transformer_layer_config": {"model_type": "llama", **_layers()},
    }


_CONFIGURATIONS: dict[str, Callable[[FittedHead], dict[str, Any]]] = {
    "safeailab": _safeailab,
    "speculators": _speculators,
}
