"""`dovetail-ort attach` takes a head, or takes one out, and nothing else."""

from __future__ import annotations

import shutil

from dovetail_ort.cli.main import main


def test_attaching_what_is_no_head_is_refused(tiny_bundle, tmp_path, capsys):
    assert main(["attach", str(tiny_bundle), str(tmp_path)]) == 2
    assert "a draft head must be a directory with a head.json" in capsys.readouterr().err


def test_a_head_is_taken_out_again(tiny_drafting_bundle, tmp_path, capsys):
    bundle = shutil.copytree(tiny_drafting_bundle, tmp_path / "bundle")
    assert main(["attach", str(bundle), "--none"]) == 0
    assert "none, prompt lookup only" in capsys.readouterr().out
    assert not list(bundle.glob("drafter*"))


def test_a_head_and_none_exclude_each_other(tiny_bundle, tmp_path, refused):
    assert "either a HEAD or --none" in refused("attach", tiny_bundle, tmp_path, "--none")
    assert "either a HEAD or --none" in refused("attach", tiny_bundle)
