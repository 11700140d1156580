"""What each pass of a recipe is worth."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest

from dovetail_ort.cli.main import main
from dovetail_ort_export.attach import attach_drafter
from dovetail_ort_export.laboratory import ablation as ablating
from dovetail_ort_export.laboratory.ablation import AGAIN, ROWS, WHOLE, Workshop
from dovetail_ort_export.recipe import Recipe, Step
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.measurements import Agreement, RowInvariance

PACKING = ("pack-qkv", "pack-gate-up", "fuse-skip-norm")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few rounds."""
    monkeypatch.setattr(ablating, "_ROUNDS", 3)
    monkeypatch.setattr(ablating, "_OPENINGS", 1)


def test_every_pass_is_left_out_once_and_the_report_shows_it(tiny_llama, tiny_bundle_portable, tmp_path, capsys):
    recipe, out = tmp_path / "packed-less.toml", tmp_path / "report"
    recipe.write_text('precision = "int8"\npasses = ["bind-weights", "fuse-skip-norm", "lower-int8-blocks"]')
    command = ["graph", "ablate", str(tiny_bundle_portable), "--source", str(tiny_llama), "--recipe", str(recipe)]
    assert main([*command, "--out", str(out)]) == 0
    page = capsys.readouterr().out
    record = json.loads((out / "ablation.json").read_text())
    variants = {variant["name"]: variant for variant in record["variants"]}
    names = [f"without {name}" for name in ("score-rows", *PACKING)]
    assert list(variants) == [WHOLE, AGAIN, *names, "packed-less"]
    assert record["unchanged"] == ["without keep-blocks"]
    assert set(record["refused"]) == {"without bind-weights", "without lower-int8-blocks"}
    assert record["reproduced"]
    assert variants["without pack-qkv"]["num_nodes"] > variants[WHOLE]["num_nodes"]
    assert all(variant["row_invariance"]["identical"] for variant in variants.values())
    assert page.strip() == (out / "ablation.md").read_text().strip()
    assert "the bytes of the bundle" in page
    assert all(f"| {name} | " in page for name in variants)
    assert {len(line.split("|")) for line in page.splitlines() if line.startswith("|")} == {len(ROWS) + 6 + 2}
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")


class TimedWorkshop(Workshop):
    """Every graph is the same small one; a file beside it has the recipe."""

    graph, source = "target", "none"
    recipe = Recipe("fp32", (Step("first"), Step("second"), Step("third")))

    def write(self, name, recipe, folder):
        folder.mkdir()
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), folder / "graph.onnx")
        (folder / "recipe").write_text(",".join(recipe.names))
        return lambda capacity: ",".join(recipe.names)

    def measure(self, open_graph):
        same = RowInvariance(rows=(1,), num_tokens=1, identical=True, largest_difference=0.0)
        return same, Agreement(num_tokens=1, top1=1.0, mean_kl=0.0)

    def forwards(self, open_graph):
        return open_graph(1)


def test_a_ratio_is_the_median_over_the_rounds_of_each_with_its_own_whole(tiny_bundle, monkeypatch):
    """The machine is slower in every round, and by as much for both graphs."""
    orders = []

    def times(runs, rounds, *, rows):
        orders.append(list(runs))
        slower = [10.0 ** (len(orders) + number) for number in range(rounds)]
        factors = {name: 1.5 if run == "first,third" else 1.0 for name, run in runs.items()}
        return {name: {size: [factor * ms for ms in slower] for size in rows} for name, factor in factors.items()}

    monkeypatch.setattr(ablating, "time_in_turns", times)
    monkeypatch.setattr(ablating, "_OPENINGS", 4)
    ablation = TimedWorkshop().ablate(Bundle(tiny_bundle).manifest, {}, lambda _: None)
    ratios = {variant.name: variant.over_whole for variant in ablation.variants}
    assert ratios["without second"] == dict.fromkeys(map(str, ROWS), 1.5)
    assert ratios["without first"] == ratios[AGAIN] == dict.fromkeys(map(str, ROWS), 1.0)
    assert not ablation.reproduced
    assert len({tuple(order) for order in orders}) == 4  # each set of sessions is opened in another order


def test_a_native_graph_needs_every_packing(tiny_llama, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["graph", "ablate", str(tiny_bundle), "--source", str(tiny_llama), "--out", str(out)]) == 0
    capsys.readouterr()
    record = json.loads((out / "ablation.json").read_text())
    assert record["reproduced"]
    assert set(record["refused"]) == {f"without {name}" for name in ("bind-weights", "lower-native", *PACKING)}
    assert all(variant["row_invariance"]["identical"] for variant in record["variants"])


def test_the_passes_of_a_drafter_are_left_out_in_turn(tiny_head, tiny_bundle, tmp_path, capsys):
    head, bundle, out = tiny_head(tiny_bundle), tmp_path / "bundle", tmp_path / "report"
    shutil.copytree(tiny_bundle, bundle)
    attach_drafter(bundle, head, "int8")
    command = ["graph", "ablate", str(bundle), "--graph", "drafter", "--source", str(head), "--out", str(out)]
    assert main(command) == 0
    page = capsys.readouterr().out
    record = json.loads((out / "ablation.json").read_text())
    variants = {variant["name"]: variant for variant in record["variants"]}
    names = [f"without {name}" for name in ("pack-gate-up", "fuse-skip-norm")]
    assert list(variants) == [WHOLE, AGAIN, *names]
    refused = ("bind-weights", "pack-qkv", "lower-native", "rank-candidates")
    assert set(record["refused"]) == {f"without {name}" for name in refused}
    assert record["reproduced"]
    assert record["graph"] == "drafter"
    assert all(set(variant["over_whole"]) == {"1", "2", "4", "8", "16"} for variant in variants.values())
    agreement = variants[WHOLE]["agreement"]
    assert agreement["compared_with"] == "head"
    assert 0 < agreement["mean_kl"] < 0.01  # 8 bits, and not those of another graph
    assert agreement["top1"] > 0.9
    assert "compare with the trained head in fp32" in page


def test_another_head_is_refused(tiny_head, tiny_bundle, with_drafter, capsys):
    other = tiny_head(tiny_bundle, target_sha256="0" * 64)
    bundle = with_drafter(tiny_bundle)
    assert main(["graph", "ablate", str(bundle), "--graph", "drafter", "--source", str(other)]) == 2
    assert "the head must be the one in the bundle" in capsys.readouterr().err
    assert main(["graph", "ablate", str(tiny_bundle), "--graph", "drafter", "--source", str(other)]) == 2
    assert "has no drafter" in capsys.readouterr().err


def test_another_model_is_refused(tiny_bundle, tiny_source, capsys):
    other = tiny_source("llama", hidden_size=128)
    assert main(["graph", "ablate", str(tiny_bundle), "--source", str(other)]) == 2
    assert "the source must be the model of the bundle" in capsys.readouterr().err


def test_a_missing_source_and_a_bad_recipe_are_one_line(tiny_bundle, tmp_path, capsys):
    assert main(["graph", "ablate", str(tiny_bundle), "--source", str(tmp_path / "none.gguf")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("dovetail-ort: ")
    assert main(["graph", "ablate", str(tiny_bundle), "--source", "x", "--recipe", str(tmp_path / "none.toml")]) == 2
    assert "the recipe is no readable UTF-8 file" in capsys.readouterr().err
