"""The published configurations are understood as their publishers mean them."""

from __future__ import annotations

import pytest

from benchmarks.published import CONFIGURATIONS
from benchmarks.result_files import read_json
from dovetail_ort_export.source.settings import read_settings

# Family, rotation, theta, context, head size.
MEANT = {
    "DeepSeek-R1-Distill-Llama-8B": ("llama", "llama3", 500_000, 131_072, 128),
    "DeepSeek-R1-Distill-Qwen-1.5B": ("qwen2", "default", 10_000, 131_072, 128),
    "Llama-3.2-1B-Instruct": ("llama", "llama3", 500_000, 131_072, 64),
    "Mistral-7B-Instruct-v0.3": ("mistral", "default", 1_000_000, 32_768, 128),
    "Mistral-Nemo-Instruct-2407": ("mistral", "default", 1_000_000, 131_072, 128),
    "Qwen2.5-0.5B-Instruct": ("qwen2", "default", 1_000_000, 32_768, 64),
    "Qwen2.5-7B-Instruct": ("qwen2", "default", 1_000_000, 32_768, 128),
    "Qwen3-0.6B": ("qwen3", "default", 1_000_000, 40_960, 128),
    "Qwen3-8B": ("qwen3", "default", 1_000_000, 40_960, 128),
    "SmolLM2-1.7B-Instruct": ("llama", "default", 130_000, 8_192, 64),
    "SmolLM2-135M-Instruct": ("llama", "default", 100_000, 8_192, 64),
    "SmolLM2-360M-Instruct": ("llama", "default", 100_000, 8_192, 64),
}


def test_every_configuration_has_its_meaning_here():
    assert {path.stem for path in CONFIGURATIONS.glob("*.json")} == MEANT.keys()


@pytest.mark.parametrize("name", MEANT)
def test_a_published_configuration_is_read_as_it_is_meant(name):
    published = read_json(CONFIGURATIONS / f"{name}.json")
    settings = read_settings(published)
    size = published.get("head_dim") or published["hidden_size"] // published["num_attention_heads"]
    rotary = settings.rotary
    found = (settings.family.model_type, rotary.kind, rotary.theta, settings.max_context, size)
    assert found == MEANT[name]
