"""Print the names that the three packages publish, with their signatures; `public_names.txt` is what it printed.

python tests/packaging/public_names.py > tests/packaging/public_names.txt
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

# The one that defines a name comes before those that pass it on.
PACKAGES: Final = ("dovetail_ort_runtime", "dovetail_ort_export", "dovetail_ort")


def main() -> None:
    """Print a line a name, sorted within each package."""
    known: dict[int, str] = {}
    for package in map(importlib.import_module, PACKAGES):
        for name in sorted(package.__all__):
            value, full_name = getattr(package, name), f"{package.__name__}.{name}"
            if id(value) in known:
                print(f"{full_name} = {known[id(value)]}")
            else:
                known[id(value)] = full_name
                print(*described(full_name, value), sep="\n")


def described(full_name: str, value: Any) -> Iterator[str]:
    """Lines for a name and, if it is a class, its public members."""
    if isinstance(value, ModuleType):
        yield f"{full_name}: module"
    elif typing.is_typeddict(value):
        keys = (f"{key}: {as_written(annotation)}" for key, annotation in value.__annotations__.items())
        yield f"{full_name}({', '.join(keys)}): dictionary"
    elif inspect.isclass(value):
        yield from described_class(full_name, value)
    elif callable(value):
        yield f"{full_name}{signature(value)}"
    else:
        yield f"{full_name}: {type(value).__name__}"


def described_class(full_name: str, cls: type) -> Iterator[str]:
    """A class with what it is constructed from, then its members."""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    if issubclass(cls, BaseException):
        yield f"{full_name}: exception, {bases}"
        return
    constructor = "" if typing.Protocol in cls.__bases__ else signature(cls)
    yield f"{full_name}{constructor}" + (f": {bases}" if bases else "")
    lines = {name: member_line(name, member) for name, member in members(cls).items()}
    lines |= {
        name: f".{name}" for name in documented_attributes(cls) if name not in parameters(cls) and name not in lines
    }
    yield from (f"{full_name}{lines[name]}" for name in sorted(lines))


def members(cls: type) -> dict[str, Any]:
    """Public methods and properties of a class and of its bases among the three packages."""
    own = [base for base in reversed(cls.__mro__) if base.__module__.partition(".")[0] in PACKAGES]
    found = {name: value for base in own for name, value in vars(base).items() if not name.startswith("_")}
    return {name: value for name, value in found.items() if not inspect.ismemberdescriptor(value)}


def member_line(name: str, member: Any) -> str:
    """A method with its signature, a property with its type."""
    if isinstance(member, property):
        return f".{name}: {inspect.signature(member.fget).return_annotation}"
    if isinstance(member, staticmethod):
        return f".{name}{signature(member.__func__)}: static method"
    if isinstance(member, classmethod):
        return f".{name}{signature(member.__func__, bound=True)}: class method"
    return f".{name}{signature(member, bound=True)}" if callable(member) else f".{name}: {type(member).__name__}"


def documented_attributes(cls: type) -> list[str]:
    """Names below `Attributes:` in a docstring: what the constructor sets."""
    _, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    section = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0]  # another section begins at the margin
    return [name for name in re.findall(r"^ {4}(\w+):", section, re.MULTILINE) if not name.startswith("_")]


def parameters(cls: type) -> list[str]:
    """Names that the constructor takes."""
    return list(inspect.signature(cls).parameters)


def signature(function: Any, *, bound: bool = False) -> str:
    """Parameters, defaults and result as they are written; `self` is left out, and a lambda's address."""
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=as_written(parameter.annotation)) for parameter in found.parameters.values()
    ]
    result = as_written(found.return_annotation)
    written = found.replace(parameters=parameters[1:] if bound else parameters, return_annotation=result)
    return re.sub(r" at 0x[0-9a-f]+", "", str(written))


class _Text:
    """An annotation that `inspect` shows without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def as_written(annotation: Any) -> Any:
    """An annotation that shows as its source text."""
    annotation = getattr(annotation, "__forward_arg__", annotation)
    return _Text(annotation) if isinstance(annotation, str) else annotation


if __name__ == "__main__":
    main()
