"""Answer one prompt from the bundle beside this program; PyInstaller makes an application of it with `ask.spec`.

Usage:

    ask Why is the sky blue?
    ask < question.txt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import dovetail_ort
from dovetail_ort import DovetailError, GenerationOptions

OPTIONS: Final = GenerationOptions(max_new_tokens=256)


def main() -> int:
    """Exit status: 0 with an answer, 2 with one line that says why there is none, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="ask", description="Answer one prompt from the bundle beside this program.")
    parser.add_argument("prompt", nargs="*", metavar="WORD", help="a word of the prompt (default: standard input)")
    words = parser.parse_args().prompt
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # an empty environment may stand for ASCII
    try:
        answer(" ".join(words) or sys.stdin.read().strip())
    except (DovetailError, UnicodeDecodeError) as error:
        print(f"ask: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def answer(prompt: str) -> None:
    """Print the answer as it is decided, then its speed."""
    model = dovetail_ort.load(program_directory() / "bundle")
    chat = [{"role": "user", "content": prompt}] if prompt and model.has_chat_template else prompt
    for piece in model.stream(chat, OPTIONS):
        print(piece.text, end="", flush=True)
    print(flush=True)
    if piece.generation is not None:
        statistics = piece.generation.statistics
        speed = f"{statistics.new_tokens} tokens, {statistics.decode_tokens_per_second:.1f} tokens/s"
        print(f"[{speed}]", file=sys.stderr)


def program_directory() -> Path:
    """Where the frozen program is, or this file if it is not frozen."""
    return Path(sys.executable if getattr(sys, "frozen", False) else __file__).resolve().parent


if __name__ == "__main__":
    sys.exit(main())
