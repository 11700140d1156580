"""Requests about code, as JSONL for `dovetail-ort train --prompts`.

    python code_prompts.py > prompts.jsonl

Each documented function of Python's own standard library gives its head and docstring, to be completed, and a request
in words; every third one also its source, to be explained. The openings are first words of requests that the model
goes on with itself, each time in another way. Nothing of an evaluation set is in them.
"""

from __future__ import annotations

import ast
import json
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SKIPPED: Final = {"site-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3"}
_DOCSTRING_CHARACTERS: Final = range(40, 700)
_SOURCE_CHARACTERS: Final = 900
_REQUESTS: Final = (
    "Write a Python function `{name}`. {doc}",
    "{doc}\n\nImplement this as a Python function called {name}.",
    "How would you write a function {name}({arguments}) in Python? {doc}",
)
_OPENINGS: Final = (
    "Write a Python function that",
    "Write a Python function which takes a list of",
    "Implement a function in Python",
    "Write a function that takes two",
    "Write a function that returns",
    "Write a program that reads",
    "Write code to",
    "Create a Python function to check whether",
    "Create a Python function to count",
    "Write a Python class",
    "Complete the following Python function:\n\ndef ",
    "Complete this function:\n\n```python\ndef ",
    "def ",
    "def is_",
    "def count_",
    "def find_",
    "def sum_",
    "def sort_",
    "def remove_",
    "def check_",
    "def get_",
    "def max_",
    "def string_",
    "from typing import List\n\n\ndef ",
    "import math\n\n\ndef ",
    "Given a list of integers,",
    "Given a string,",
    "Given two strings,",
    "Given a positive integer",
    "You are given a list of",
    "You are given a string",
    "How do I write a Python function",
    "Fix the bug in this Python code:",
    "Explain what this Python code does:",
    "Write a unit test for",
    "Sort a list of",
    "Find the largest",
    "Return the number of",
    "Check if a number is",
)


def main() -> None:
    """Print the openings, then the prompts in a fixed random order."""
    for opening in _OPENINGS:
        print(json.dumps({"opening": opening}))
    prompts = list(dict.fromkeys(_prompts(Path(sysconfig.get_path("stdlib")))))
    random.Random(0).shuffle(prompts)
    for prompt in prompts:
        print(json.dumps({"prompt": prompt}))


def _prompts(library: Path) -> Iterator[str]:
    for index, (function, source) in enumerate(_documented_functions(library)):
        doc = (ast.get_docstring(function) or "").strip()
        arguments = ast.unparse(function.args).removeprefix("self, ").removeprefix("cls, ")
        if arguments in ("self", "cls"):
            arguments = ""
        body = "\n".join(f"    {line}".rstrip() for line in doc.splitlines()).strip()
        yield f'def {function.name}({arguments}):\n    """{body}\n    """\n'
        first = " ".join(doc.split("\n\n")[0].split())
        yield _REQUESTS[index % len(_REQUESTS)].format(name=function.name, arguments=arguments, doc=first)
        if index % 3 == 0 and len(source) <= _SOURCE_CHARACTERS:
            yield f"What does this function do?\n\n```python\n{source}\n```"


def _documented_functions(library: Path) -> Iterator[tuple[ast.FunctionDef, str]]:
    for path in sorted(library.rglob("*.py")):
        if _SKIPPED & set(path.relative_to(library).parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                doc = ast.get_docstring(node) or ""
                if len(doc) in _DOCSTRING_CHARACTERS and '"""' not in doc:
                    yield node, ast.get_source_segment(text, node) or ""


if __name__ == "__main__":
    sys.exit(main())
