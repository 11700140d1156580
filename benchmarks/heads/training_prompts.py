"""What the target is asked to write about, as JSONL for `dovetail-ort train --prompts`.

    python -m benchmarks.heads.training_prompts > prompts.jsonl

The openings are the first words of requests, which the model continues itself, each time in another way. They are about
code, heads of functions whose docstring the model makes up, and everything else. Each documented function of Python's
standard library gives two prompts: its head and docstring, to be completed, and a request in words. Every third
function also gives its source, to be explained. Nothing of an evaluation set is in them.
"""

from __future__ import annotations

import ast
import itertools
import json
import random
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
_CODE_OPENINGS: Final = (
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
_VERBS: Final = (
    "count",
    "find",
    "remove",
    "replace",
    "sort",
    "filter",
    "sum",
    "check",
    "get",
    "split",
    "merge",
    "largest",
)
_THINGS: Final = {
    "numbers": "numbers: List[int]",
    "words": "words: List[str]",
    "digits": "n: int",
    "letters": "text: str",
    "pairs": "a: List[int], b: List[int]",
}
_RESULTS: Final = ("int", "bool", "str", "List[int]", "List[str]")
_OTHER_OPENINGS: Final = (
    "Explain how",
    "Explain why",
    "Explain the",
    "What is",
    "What is the difference between",
    "What are",
    "What happens when",
    "What does",
    "What should I",
    "What were the",
    "Why do",
    "Why is",
    "How do",
    "How does",
    "How can I",
    "How many",
    "Who was",
    "Who is",
    "When did",
    "Where is",
    "Which",
    "Can you",
    "Please",
    "Tell me about",
    "Give me",
    "Give an example of",
    "List",
    "Name three",
    "Describe",
    "Define",
    "Compare",
    "Summarize",
    "Rewrite the following",
    "Translate",
    "Correct the grammar",
    "Write a short story about",
    "Write a poem about",
    "Write a letter to",
    "Write an email to",
    "Write a paragraph about",
    "Write an essay on",
    "Write a dialogue between",
    "Write a review of",
    "Write a speech",
    "Write a recipe for",
    "Write a description of",
    "Create a list of",
    "Make a plan for",
    "Plan a",
    "Suggest",
    "Imagine",
    "I want to",
    "I need help with",
    "I have a",
    "My",
    "Is it",
    "Are there",
    "Do you",
    "Solve",
    "Calculate",
    "If",
    "The",
    "A",
    "In",
)


def main() -> None:
    """Print the openings, then the prompts in a fixed random order."""
    for opening in (*_CODE_OPENINGS, *_function_heads(), *_OTHER_OPENINGS):
        print(json.dumps({"opening": opening}))
    prompts = list(dict.fromkeys(_prompts(Path(sysconfig.get_path("stdlib")))))
    random.Random(0).shuffle(prompts)
    for prompt in prompts:
        print(json.dumps({"prompt": prompt}))


def _function_heads() -> Iterator[str]:
    for index, (verb, (thing, arguments)) in enumerate(itertools.product(_VERBS, _THINGS.items())):
        # As people write them: with types, without types, after an import.
        if index % 3:
            imports = "from typing import List\n\n\n" if index % 3 == 1 else ""
            yield f'{imports}def {verb}_{thing}({arguments}) -> {_RESULTS[index % len(_RESULTS)]}:\n    """ '
        else:
            names = ", ".join(argument.partition(":")[0] for argument in arguments.split(", "))
            yield f'def {verb}_{thing}({names}):\n    """'


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
    main()
