"""The list of passes that an export runs over a traced graph, from a TOML file. It knows names, but no passes."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from dovetail_ort_runtime.bundle.formats import NATIVE, NUMBER_FORMATS, PORTABLE
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import InputError, one_line
from dovetail_ort_runtime.text.user_text import read_text_file

LOWER_NATIVE: Final = "lower-native"
_LOWERING: Final = "lower-"
_KEYS: Final = {"precision", "passes"}


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of a recipe.

    Attributes:
        name: name of a built-in pass or of another package's, or `module:Class`.
        options: keyword arguments of the pass.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Step:
        """The step that a manifest shows as `text`.

        Args:
            text: `name`, or `name(option=value, ...)` with values that are literals of Python.

        Raises:
            InputError: it is no pass with options.
        """
        name, has_options, arguments = text.partition("(")
        if not has_options:
            return cls(name)
        try:
            call = ast.parse(f"step({arguments}", mode="eval").body
            assert isinstance(call, ast.Call)
            options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        except (SyntaxError, ValueError, AssertionError) as error:
            raise InputError(f"a pass in the manifest must read name(option=value), got {text!r}") from error
        return cls(name, options)

    def __str__(self) -> str:
        """The pass as a manifest writes it, such as `lower-int8-blocks(mlp_bits=4)`."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.name}({arguments})" if arguments else self.name


@dataclass(frozen=True, slots=True)
class Recipe:
    """A list of passes, in order.

    Attributes:
        precision: number format of most weights of the resulting graph, one of `NUMBER_FORMATS`.
        steps: the passes.
    """

    precision: str
    steps: tuple[Step, ...]

    @classmethod
    def from_toml(cls, text: str, where: str) -> Recipe:
        """Read a recipe.

        Args:
            text: TOML with the keys `precision` and `passes`; a pass is a name, or a table whose key `pass` is the name
                and whose other keys are its options.
            where: name of the recipe in errors.

        Raises:
            InputError: the text is no recipe.
        """
        try:
            value = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{where} is not TOML: {one_line(error)}") from error
        if set(value) != _KEYS:
            raise InputError(f"{where} must have the keys {', '.join(sorted(_KEYS))}, got {', '.join(value) or 'none'}")
        precision = value["precision"]
        passes = value["passes"]
        must_be_one_of(f"{where}: precision", precision, NUMBER_FORMATS)
        if not isinstance(passes, list) or not passes:
            raise InputError(f"{where}: passes must be a list of one pass or more, got {passes!r}")
        return cls(precision, tuple(_step(item, where) for item in passes))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the passes."""
        return tuple(step.name for step in self.steps)

    @property
    def format(self) -> str:
        """Which operators its graph has: `native`, this package's own, or `portable`, a stock ONNX Runtime's."""
        return NATIVE if LOWER_NATIVE in self.names else PORTABLE

    def without(self, name: str) -> Recipe:
        """This recipe with every pass of that name left out."""
        return replace(self, steps=tuple(step for step in self.steps if step.name != name))

    def given(self, name: str, **options: Any) -> Recipe:
        """This recipe with options of every pass of that name set."""
        steps = [Step(name, {**step.options, **options}) if step.name == name else step for step in self.steps]
        return replace(self, steps=tuple(steps))

    def lowered_by(self, name: str, precision: str) -> Recipe:
        """This recipe with another lowering instead of its own, which makes weights of that precision."""
        steps = [Step(name) if step.name.startswith(_LOWERING) else step for step in self.steps]
        return Recipe(precision, tuple(steps))

    def describe(self) -> tuple[str, ...]:
        """The passes as a manifest writes them."""
        return tuple(str(step) for step in self.steps)


def built_in_recipe(name: str) -> Recipe:
    """A recipe of this package: `native`, `portable`, `fp32` or `drafter`."""
    text = (files("dovetail_ort_export") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return Recipe.from_toml(text, f"the recipe {name}")


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        InputError: the file cannot be read, or is no recipe.
    """
    return Recipe.from_toml(read_text_file(path, "the recipe"), f"the recipe {path}")


def _step(item: object, where: str) -> Step:
    if isinstance(item, str):
        return Step(item)
    if isinstance(item, dict) and isinstance(item.get("pass"), str):
        return Step(item["pass"], {name: value for name, value in item.items() if name != "pass"})
    raise InputError(f'{where}: a pass must be a name or a table with the key "pass", got {item!r}')
