"""Graphs that an export writes, as whole files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MLP_4_BIT = Path(__file__).parents[3] / "benchmarks" / "recipes" / "mlp-4-bit.toml"


@pytest.mark.parametrize(
    "settings",
    [
        {"recipes": (MLP_4_BIT,)},
        {"format": "both"},
        {"precision": "fp32"},
        {"format": "native", "gpu_layers": 1},
    ],
)
def test_two_exports_of_one_model_are_the_same_bytes(tiny_llama, tmp_path, settings):
    from dovetail_ort_export import ExportOptions, export_bundle

    for name in ("one", "two"):
        export_bundle(str(tiny_llama), tmp_path / name, ExportOptions(**settings))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    # Manifest, tokenizer and template; a graph with its weights for each format; front, its graph for chains, the rest.
    assert len(files) == 5 + 2 * (settings.get("format") == "both") + 4 * ("gpu_layers" in settings)
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert content(tmp_path / "one" / name) == content(tmp_path / "two" / name), name


def content(path):
    """The bytes of a file; of a manifest all but the seconds that a check took."""
    if path.name != "manifest.json":
        return path.read_bytes()
    return re.sub(rb'"seconds": [0-9.e-]+', b"", path.read_bytes())
