"""Write a Hugging Face directory with LLaMA-2-7B's configuration and random weights.

    python -m benchmarks.paper_size.random_source OUT [NUM_LAYERS]

Weights are drawn with a seed, in bfloat16. Each block has a file of its own, so that one block at a time is in memory.
The tokenizer only knows bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from benchmarks.byte_tokenizer import byte_tokenizer

SEED: Final = 0
END_OF_TEXT: Final = "</s>"
CONFIG: Final = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def main(out: str, num_layers: str = "32") -> None:
    """Write configuration, tokenizer and weights."""
    directory = Path(out)
    directory.mkdir(parents=True)
    config = LlamaConfig(
        **{**CONFIG, "num_hidden_layers": int(num_layers)}, architectures=["LlamaForCausalLM"], dtype="bfloat16"
    )
    config.save_pretrained(directory)
    _write_weights(config, directory)
    _write_tokenizer(directory)


def _write_weights(config: LlamaConfig, directory: Path) -> None:
    torch.manual_seed(SEED)
    files: dict[str, str] = {}
    num_bytes = 0
    for part, shapes in _parts(config):
        file = f"model-{part}.safetensors"
        tensors = {name: _drawn(shape, config.initializer_range) for name, shape in shapes.items()}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
        print(f"\r{file}, {num_bytes / 1e9:.1f} GB", end="", file=sys.stderr, flush=True)
    index = {"metadata": {"total_size": num_bytes}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _parts(config: LlamaConfig) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """The name of each file, and the shapes of its weights by name."""
    size = config.hidden_size
    inner = config.intermediate_size
    ends = (config.vocab_size, size)
    yield "ends", {"model.embed_tokens.weight": ends, "model.norm.weight": (size,), "lm_head.weight": ends}
    for layer in range(config.num_hidden_layers):
        shapes: dict[str, tuple[int, ...]] = {
            **{f"self_attn.{part}_proj.weight": (size, size) for part in "qkvo"},
            "mlp.gate_proj.weight": (inner, size),
            "mlp.up_proj.weight": (inner, size),
            "mlp.down_proj.weight": (size, inner),
            "input_layernorm.weight": (size,),
            "post_attention_layernorm.weight": (size,),
        }
        yield f"block-{layer:02}", {f"model.layers.{layer}.{name}": shape for name, shape in shapes.items()}


def _drawn(shape: tuple[int, ...], deviation: float) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=deviation)


def _write_tokenizer(directory: Path) -> None:
    byte_tokenizer(END_OF_TEXT).save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
