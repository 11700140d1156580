"""`dovetail-ort chat`: a conversation line by line."""

from __future__ import annotations

import io
from typing import Any

from dovetail_ort.cli.main import main
from dovetail_ort.commands.chat import ChatSoFar

PROMPT = "The tails hold the pins"


def test_chat_without_a_template_is_refused(change_manifest, damaged, refused):
    change_manifest(damaged, lambda manifest: manifest["tokenizer"].update(chat_template=None))
    assert "use dovetail-ort generate --raw" in refused("chat", damaged)


def test_chat_answers_each_line_and_reuses_what_it_has_read(tiny_bundle, capsys, monkeypatch):
    lines = [PROMPT, "", "/nonsense", "And the nail?", "/reset", PROMPT]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    assert main(["chat", str(tiny_bundle), "--max-new-tokens", "8", "--system", "Be brief."]) == 0
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if "tokens" in line]
    assert len(told) == 3
    assert "reused" not in told[0]
    assert "prompt tokens reused" in told[1]
    assert "[a command must be /reset, /quit or /help, got /nonsense]" in err
    assert len(out.splitlines()) >= 3
    assert not out.startswith("> ")  # a prompt is for terminals


def test_chat_reads_lines_that_any_system_wrote(tiny_bundle, capsys, monkeypatch):
    written = io.BytesIO(f"\ufeff/help\r\n{PROMPT}\r\n/quit\r\n".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(written, encoding="utf-8", newline="\n"))
    asked = []
    monkeypatch.setattr(ChatSoFar, "answer", lambda _, text: asked.append(text))
    assert main(["chat", str(tiny_bundle), "--quiet"]) == 0
    assert asked == [PROMPT]
    assert "/reset forgets" in capsys.readouterr().err


def test_chat_ends_at_quit(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/quit\n{PROMPT}\n"))
    assert main(["chat", str(tiny_bundle), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_chat_survives_a_message_that_is_too_long(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("word " * 600 + "\n" + PROMPT + "\n"))
    assert main(["chat", str(tiny_bundle), "--max-new-tokens", "4"]) == 0
    err = capsys.readouterr().err
    assert "start again with /reset]" in err
    assert "[4 tokens" in err


class ScriptedPrinter:
    """Says `text`, then raises `error` if there is one; keeps the prompts."""

    def __init__(self) -> None:
        self.text = ""
        self.script: list[tuple[str, BaseException | None]] = []
        self.prompts: list[Any] = []

    def answer(self, prompt: Any) -> None:
        self.prompts.append(prompt)
        self.text, error = self.script.pop(0)
        if error is not None:
            raise error


def test_conversation_keeps_an_interrupted_answer_and_drops_a_message_without_one(capsys):
    printer = ScriptedPrinter()
    printer.script = [("Once upon", KeyboardInterrupt()), ("", KeyboardInterrupt()), ("a time.", None)]
    conversation = ChatSoFar(printer, system="Tell stories.")  # type: ignore[arg-type]
    for text in ("Begin.", "Never mind.", "Go on."):
        conversation.answer(text)
    said = [(message["role"], message["content"]) for message in conversation.messages]
    assert said == [
        ("system", "Tell stories."),
        ("user", "Begin."),
        ("assistant", "Once upon"),
        ("user", "Go on."),
        ("assistant", "a time."),
    ]
    assert capsys.readouterr().err.count("interrupted") == 2
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Tell stories."}]
