"""What an answer looks like on a terminal, and elsewhere."""

from __future__ import annotations

import sys

from dovetail_ort.cli.main import main


def test_accepted_draft_tokens_are_tinted_on_a_terminal_only(tiny_bundle, capsys, monkeypatch):
    argv = ["generate", str(tiny_bundle), "pins", "--raw", "--show-drafted", "--max-new-tokens", "20", "--quiet"]
    # The target itself drafts: all is accepted.
    argv += ["--drafter", "lm", "--draft-bundle", str(tiny_bundle), "--chain", "3"]
    main(argv)
    plain = capsys.readouterr().out
    assert "\x1b" not in plain
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(argv)
    tinted = capsys.readouterr().out
    assert "\x1b[32m" in tinted
    assert tinted.replace("\x1b[32m", "").replace("\x1b[0m", "") == plain
