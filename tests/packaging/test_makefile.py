"""`make help` is the list of the targets that a person calls."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MAKEFILES = ("Makefile", "benchmarks/benchmarks.mk")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_help_names_every_phony_target_and_no_other():
    text = "\n".join((REPOSITORY / name).read_text(encoding="utf-8") for name in MAKEFILES)
    lists = re.findall(r"^\.PHONY:(.*)", text.replace("\\\n", " "), re.MULTILINE)
    phony = [name for names in lists for name in names.split()]
    command = ["make", "--no-print-directory", "help"]
    printed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert sorted(re.findall(r"^  ([\w-]+)  ", printed, re.MULTILINE)) == sorted(phony)
