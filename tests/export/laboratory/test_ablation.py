"""What each pass of a recipe is worth."""

from __future__ import annotations

import json

import pytest

from dovetail_ort.command_line import main
from dovetail_ort_export.laboratory import ablation as ablating
from dovetail_ort_export.laboratory.ablation import AGAIN, WHOLE

REFUSED = {"without bind-weights", "without lower-int8-rows"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few rounds."""
    monkeypatch.setattr(ablating, "_ROUNDS", 3)
    monkeypatch.setattr(ablating, "_OPENINGS", 1)


def test_every_pass_is_left_out_once_and_the_report_tells_it(tiny_llama, tiny_bundle_row, tmp_path, capsys):
    recipe, out = tmp_path / "packed-less.toml", tmp_path / "report"
    recipe.write_text('precision = "int8"\npasses = ["bind-weights", "fuse-skip-norm", "lower-int8-blocks"]')
    command = ["graph", "ablate", str(tiny_bundle_row), "--source", str(tiny_llama), "--recipe", str(recipe)]
    assert main([*command, "--out", str(out)]) == 0
    page = capsys.readouterr().out
    record = json.loads((out / "ablation.json").read_text())
    variants = {variant["name"]: variant for variant in record["variants"]}
    names = [f"without {name}" for name in ("equalize", "score-rows", "pack-qkv", "pack-gate-up", "fuse-skip-norm")]
    assert list(variants) == [WHOLE, AGAIN, *names, "packed-less"]
    assert record["unchanged"] == ["without keep-blocks"]
    assert set(record["refused"]) == REFUSED
    assert record["reproduced"]
    assert variants[WHOLE]["over_whole"] == dict.fromkeys(("1", "2", "4", "8", "16"), 1.0)
    assert variants["without pack-qkv"]["num_nodes"] > variants[WHOLE]["num_nodes"]
    assert all(variant["row_invariance"]["identical"] for variant in variants.values())
    assert page.strip() == (out / "ablation.md").read_text().strip()
    assert "the bytes of the bundle" in page
    assert all(f"| {name} | " in page for name in variants)
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_another_model_is_refused(tiny_bundle_row, tiny_source, capsys):
    other = tiny_source("llama", hidden_size=128)
    assert main(["graph", "ablate", str(tiny_bundle_row), "--source", str(other)]) == 2
    assert "the source must be the model of the bundle" in capsys.readouterr().err


def test_a_missing_source_and_a_bad_recipe_are_one_line(tiny_bundle, tmp_path, capsys):
    assert main(["graph", "ablate", str(tiny_bundle), "--source", str(tmp_path / "none.gguf")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("dovetail-ort: ")
    assert main(["graph", "ablate", str(tiny_bundle), "--source", "x", "--recipe", str(tmp_path / "none.toml")]) == 2
    assert "the recipe must be a readable TOML file" in capsys.readouterr().err
