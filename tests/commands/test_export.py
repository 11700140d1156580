"""`dovetail-ort export`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from dovetail_ort.cli.main import main

PROMPT = "The tails hold the pins"


def test_export_sums_up_and_names_the_next_command(tiny_llama, tmp_path, capsys):
    out = tmp_path / "a bundle"
    assert main(["export", str(tiny_llama), str(out), "--max-context", "64", "--precision", "fp32"]) == 0
    summary, progress = capsys.readouterr()
    for line in ("row invariance  identical at S = 1, 2, 3, 5, 8, 16, 64", "exact           yes", "peak memory"):
        assert line in summary
    assert f"dovetail-ort generate '{out}'" in summary
    assert "loading" in progress
    assert "writing model.onnx" in progress
    assert main(["inspect", str(out), "--verify"]) == 0
    assert "all checksums match" in capsys.readouterr().out
    assert main(["export", str(tiny_llama), str(out)]) == 2
    assert "pass --force to replace it" in capsys.readouterr().err
    assert main(["export", str(tiny_llama), str(out), "--force", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["target"]["precision"], record["target"]["max_context"]) == ("int8", 512)
    assert record["target"]["format"] == "native"


@pytest.mark.parametrize(
    ("chosen", "shown"), [("native", "native"), ("portable", "portable"), ("both", "native and portable")]
)
def test_export_and_inspect_show_the_format(tiny_llama, tmp_path, capsys, chosen, shown):
    out = tmp_path / "bundle"
    assert main(["export", str(tiny_llama), str(out), "--format", chosen]) == 0
    exported = capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0
    for page in (exported, capsys.readouterr().out):
        assert re.search(rf"million(?: parameters)?, int8, {shown}$", page, re.M)


def test_export_says_loudly_that_a_bundle_is_not_exact(tiny_llama, tmp_path, capsys, monkeypatch):
    from dovetail_ort_export.checking import agreement

    measure = agreement.measure_row_invariance

    def differing(*arguments: Any) -> Any:

        return replace(measure(*arguments), identical=False, largest_difference=0.5)

    monkeypatch.setattr(agreement, "measure_row_invariance", differing)
    assert main(["export", str(tiny_llama), str(tmp_path / "bundle")]) == 0
    out, err = capsys.readouterr()
    assert "exact           NO" in out
    assert "WARNING" in err.splitlines()[-1]
    assert main(["generate", str(tmp_path / "bundle"), PROMPT, "--max-new-tokens", "2"]) == 0
    assert "not exact: this bundle failed its check" in capsys.readouterr().err


def test_unreadable_source_is_refused(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    assert main(["export", str(tmp_path / "source"), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("dovetail-ort: a source directory must hold a model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
