"""`dovetail-ort inspect` shows what a bundle says of itself."""

from __future__ import annotations

import json
import shutil

from dovetail_ort.cli.main import main


def test_inspect_shows_what_is_in_the_bundle(tiny_bundle, capsys):
    assert main(["inspect", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    for text in ("llama", "2 blocks, 4 query and 2 KV heads of 16", "512 tokens of context", "tokenizer.json", "torch"):
        assert text in out
    assert "bind-weights, keep-blocks, score-rows, pack-qkv, pack-gate-up, fuse-skip-norm, lower-native" in out
    assert main(["inspect", str(tiny_bundle), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["target"]["num_layers"] == 2
    assert record["num_bytes"] == sum(entry["num_bytes"] for entry in record["files"])


def test_inspect_shows_a_bundle_that_was_compared_with_something_unheard_of(damaged, capsys):
    manifest = damaged / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"compared_with": "model"', '"compared_with": "a sieve"'))
    assert main(["inspect", str(damaged)]) == 0
    assert "same top token as what it came from" in capsys.readouterr().out


def test_inspect_shows_where_a_head_comes_from_and_what_it_brings(
    tiny_drafting_bundle, tmp_path, change_manifest, capsys
):
    bundle = shutil.copytree(tiny_drafting_bundle, tmp_path / "bundle")

    def measured(manifest):
        manifest["drafter"]["origin"] = {"name": "them/head", "form": "eagle", "revision": "a1b2", "licence": "mit"}
        manifest["drafter"]["acceptance"] = [{"text": "short prompts", "num_tokens": 9, "by_depth": [0.66, 0.5]}]

    change_manifest(bundle, measured)
    assert main(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "them/head at a1b2, form eagle, licence mit" in out
    assert "short prompts 66% 50%" in out
