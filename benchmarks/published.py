"""Published configurations, exported with random weights: what is read of each, and how far graph and files agree.

    python -m benchmarks.published

The files in `benchmarks/configurations/` are written from memory of the published ones, key by key. So that the largest
model fits, two settings change: a model has `LAYERS` blocks and a vocabulary of `VOCABULARY` tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from benchmarks.byte_tokenizer import byte_tokenizer
from benchmarks.machine import write_result
from benchmarks.result_files import REPOSITORY, read_json
from dovetail_ort_export import ExportOptions, export_bundle
from dovetail_ort_export.source.settings import read_settings

LAYERS: Final = 2
VOCABULARY: Final = 4096
CONFIGURATIONS: Final = REPOSITORY / "benchmarks" / "configurations"
_END: Final = "<|end|>"
# The ids of the tokens that begin and end a text would be outside the smaller vocabulary.
_CUT: Final = {"num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 0}


def main() -> None:
    """Export every configuration, and write `published.json`."""
    warnings.simplefilter("ignore")
    found = {}
    for path in sorted(CONFIGURATIONS.glob("*.json")):
        print(path.stem, file=sys.stderr)
        found[path.stem] = _measured(read_json(path))
    settings = {"transformers": transformers.__version__, "layers": LAYERS, "vocabulary": VOCABULARY}
    write_result("published", {**settings, "models": found})


def _measured(published: dict[str, Any]) -> dict[str, Any]:
    settings = read_settings(published)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        out = Path(folder) / "bundle"
        _write_source({**published, **_CUT, "pad_token_id": None}, source)
        manifest = export_bundle(str(source), out, ExportOptions(precision="fp32")).manifest
    witness = manifest.measurements.witness
    assert witness is not None
    return {
        "family": settings.family.model_type,
        "layers": published["num_hidden_layers"],
        "rotation": settings.rotary.kind,
        "theta": settings.rotary.theta,
        "max_context": settings.max_context,
        "head_size": manifest.target.head_size,
        "tied": bool(settings.values["tie_word_embeddings"]),
        "last_position": max(witness.positions),
        "model_difference": witness.model_difference,
        "graph_difference": witness.graph_difference,
    }


def _write_source(config: dict[str, Any], directory: Path) -> None:
    """A directory with the configuration, and random bfloat16 weights, norms and biases included."""
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config), dtype=torch.bfloat16
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-0.5, 0.5) if name.endswith("bias") else parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}), encoding="utf-8")
    byte_tokenizer(_END).save(str(directory / "tokenizer.json"))


if __name__ == "__main__":
    main()
