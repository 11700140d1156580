"""`dovetail-ort attach` takes a head and nothing else."""

from __future__ import annotations

from dovetail_ort.cli.main import main


def test_attaching_what_is_no_head_is_refused(tiny_bundle, tmp_path, capsys):
    assert main(["attach", str(tiny_bundle), str(tmp_path)]) == 2
    assert "a draft head must be a directory with a head.json" in capsys.readouterr().err
