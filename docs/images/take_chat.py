"""Takes chat.png: the chat page over a bundle, after two questions, in headless Chromium."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import expect, sync_playwright

_QUESTIONS: Final = ("Why is the sky blue?", "Say it in one sentence, for a child.")
_SECONDS: Final = 120


def take(url: str, picture: Path) -> None:
    """Ask the questions, tint what was drafted, and take the picture."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 960, "height": 820}, device_scale_factor=1.5)
        page.goto(url)
        for count, question in enumerate(_QUESTIONS, start=1):
            page.locator("#question").fill(question)
            page.keyboard.press("Enter")
            expect(page.locator("article.answer:not(.running)")).to_have_count(count, timeout=1000 * _SECONDS)
        page.get_by_role("switch").check()
        page.screenshot(path=picture)
        browser.close()


def main() -> None:
    """Serve the bundle as long as it takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--model-name", default="SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "dovetail_ort", "serve", arguments.bundle, "--port", "0"]
    command += ["--model-name", arguments.model_name]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            found = next(filter(None, (re.search(r"http://\S+?:\d+", line) for line in server.stderr)))
            take(found[0], Path(__file__).with_name("chat.png"))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
