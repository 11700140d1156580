"""`dovetail-ort tune` stores times that later commands plan with."""

from __future__ import annotations

import json
import re

import pytest

import dovetail_ort
from dovetail_ort.cli.main import main


def test_tuned_times_are_stored_and_drafted_with(tiny_bundle, capsys, monkeypatch, tmp_path):
    from dovetail_ort_runtime.loading import curves as loaded_curves

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["tune", str(tiny_bundle), "--draft-bundle", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"rows of a forward +after 128\n +1 +\d+\.\d\d ms\n", out)
    assert re.search(r"drafting +first token \d+\.\d\d ms after 1 unread", out)
    assert main(["tune", str(tiny_bundle), "--draft-bundle", str(tiny_bundle), "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(loaded_curves, "measure_curves", None)  # nothing is measured any more
    loaded = dovetail_ort.load(tiny_bundle, draft_bundle=tiny_bundle)
    assert list(loaded.curves.verify_ms[0]) == curves["verify_ms"][0]
    with pytest.raises(TypeError):
        dovetail_ort.load(tiny_bundle, draft_bundle=tiny_bundle, threads=1)
