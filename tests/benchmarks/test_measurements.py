"""Each measurement runs to its end over a tiny model and writes what the pages read; its figures say nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks import (
    formats,
    four_bits,
    growth,
    planner,
    prompt_sets,
    record,
    recorded_answers,
    spinning,
    start_up,
    weight_placement,
)
from benchmarks.heads import measure
from benchmarks.paper_size import __main__ as paper_size
from benchmarks.serve_load import __main__ as serve_load
from benchmarks.serve_load import conversations
from dovetail_ort.suites import SuitePrompt
from dovetail_ort_runtime.bundle.bundle import Bundle

PROMPTS = [
    SuitePrompt(name=str(number), messages=[{"role": "user", "content": text}])
    for number, text in enumerate(("Name three colours.", "def add(a, b):", "Why?"))
]
CHOICES = {"chain 4", "llama.cpp's rule", "planner, both, trees"}


@pytest.fixture
def result(tmp_path, monkeypatch):
    """`result(name)`: what was written as the result file of that name."""
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)

    def read(name):
        (path,) = tmp_path.glob(f"*/{name}.json")
        return json.loads(path.read_text(encoding="utf-8"))

    return read


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch):
    for module in (conversations, four_bits, planner, prompt_sets, spinning):
        monkeypatch.setattr(module, "load_suite", lambda _: PROMPTS)


def test_formats(result, monkeypatch, tiny_llama, tiny_bundle, tiny_bundle_portable):
    problems = {"one": {"prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n"}}
    for name, value in {"ROUNDS": 3, "PROSE_TEXTS": 1, "MAX_NEW_TOKENS": 8, "TEXT_TOKENS": 100}.items():
        monkeypatch.setattr(formats, name, value)
    monkeypatch.setattr(formats, "read_problems", lambda: problems)
    formats.main(str(tiny_llama), str(tiny_bundle), str(tiny_bundle_portable), "2")
    found = result("formats")
    assert found["agreement"]["all"]["fp32"] == {**found["agreement"]["all"]["fp32"], "top1": 1.0, "mean_kl": 0.0}
    assert found["humaneval"]["formats"]["native"]["identical"] == 2


def test_four_bits(result, monkeypatch, tiny_llama, tiny_bundle, tiny_head, tmp_path):
    from dovetail_ort_export import ExportOptions, export_bundle

    export_bundle(str(tiny_llama), tmp_path / "int4", ExportOptions(precision="int4"))
    small = {"SHAPES": ((64, 128),), "_BYTES": 20_000, "_PRODUCT_TURNS": 2, "_FORWARD_TURNS": 2, "NUM_PAST": 32}
    for name, value in small.items():
        monkeypatch.setattr(four_bits, name, value)
    four_bits.main(str(tiny_bundle), str(tmp_path / "int4"), str(tiny_head(tiny_bundle)))
    found = result("four-bits")
    assert found["products"]["64x128"].keys() == set(map(str, four_bits.ROWS))
    assert found["drafters"]["accepted"]["4_bits"]["drafted"] > 0


def test_growth(result, monkeypatch, tiny_drafting_bundle):
    for name, value in {"MAX_NEW_TOKENS": 8, "NUM_TEXTS": 2, "CONTEXTS": (64,)}.items():
        monkeypatch.setattr(growth, name, value)
    short = {mode: replace(options, max_new_tokens=8) for mode, options in growth.MODES.items()}
    monkeypatch.setattr(growth, "MODES", short)
    growth.main(str(tiny_drafting_bundle))
    assert result("growth")["contexts"]["64"]["identical"] == 2


def test_heads(result, monkeypatch, tiny_bundle, tiny_head):
    monkeypatch.setattr(recorded_answers, "MAX_NEW_TOKENS", 8)
    for module in (measure, recorded_answers):
        monkeypatch.setattr(module, "MAX_CONTEXT", 512)
    head = tiny_head(tiny_bundle)
    measure.main(str(tiny_bundle), "2", str(head))
    suites = result("ablation")["heads"][head.name]["suites"]
    assert suites["general"]["chain 4"]["accepted_length"] >= 1


@pytest.mark.slow  # a process of its own, and two drafters
def test_paper_size(result, monkeypatch, tiny_bundle, tmp_path):
    manifest = Bundle(tiny_bundle).manifest
    target = asdict(manifest.target) | {"passes": list(manifest.target.passes)}
    exported = {"target": target, "num_bytes": 1, "peak_memory_bytes": 1, "measurements": {}}
    (tmp_path / "export.json").write_text(json.dumps(exported))
    for name, value in {"PROCESSES": 1, "ROUNDS": 2}.items():
        monkeypatch.setattr(paper_size, name, value)
    paper_size.main(str(tiny_bundle), str(tmp_path / "export.json"))
    found = result("paper-size")
    assert found["verify"].keys() == set(map(str, paper_size.ROWS))
    assert found["projection"]["by_shape"].keys() == paper_size.PUBLISHED.keys()


def test_planner(result, monkeypatch, tiny_drafting_bundle):
    choices = planner.drafter_choices
    monkeypatch.setattr(recorded_answers, "MAX_NEW_TOKENS", 8)
    for module in (planner, recorded_answers):
        monkeypatch.setattr(module, "MAX_CONTEXT", 512)
    brief = replace(planner.THOROUGH, contexts=(64,), verify_rows=(2, 8), catch_up_rows=(1, 4), rounds=3)
    monkeypatch.setattr(planner, "THOROUGH", brief)
    monkeypatch.setattr(planner, "drafter_choices", lambda *given: {name: choices(*given)[name] for name in CHOICES})
    planner.main(str(tiny_drafting_bundle))
    found = result("planner")
    assert found["suites"]["general"].keys() == CHOICES
    assert all(choice["accepted_length"] >= 1 for choice in found["suites"]["humaneval"].values())
    assert 0 <= found["chains of 4, drafted ahead"]["general"]["ready"] <= 1


def test_a_command_with_json(result, tiny_bundle):
    record.main("profile", "graph", "profile", str(tiny_bundle), "--tokens", "1", "--past", "8")
    assert [one["rows"] for one in result("profile")["forwards"]] == [1]


def test_serve_load(result, monkeypatch, tiny_drafting_bundle):
    monkeypatch.setattr(serve_load, "SAMPLE_SECONDS", 0.1)
    assert serve_load.main(str(tiny_drafting_bundle), "3", "2") == 0
    found = result("serve-load")
    assert found["finished"] > 0
    assert found["errors"] == {}


def test_spinning(result, monkeypatch, tiny_drafting_bundle):
    monkeypatch.setattr(spinning, "OPTIONS", replace(spinning.OPTIONS, max_new_tokens=8))
    spinning.main(str(tiny_drafting_bundle))
    assert result("spinning")["num_prompts"] == len(PROMPTS)


def test_start_up(result, monkeypatch, tiny_bundle):
    monkeypatch.setattr(start_up, "REPEATS", 2)
    start_up.main(str(tiny_bundle))
    found = result("start-up")
    assert {"import_ms", "first_token_ms"} <= found.keys()


def test_weight_placement(result, monkeypatch, tiny_bundle):
    monkeypatch.setattr(weight_placement, "ROUNDS", 2)
    monkeypatch.setenv("DOVETAIL_WEIGHTS", "copy")  # and what it was comes back afterwards
    weight_placement.main(str(tiny_bundle))
    assert np.isfinite([one["copy_over_map"] for one in result("weight-placement")["rows"].values()]).all()
