"""Jinja for templates that nobody has read: its sandbox, with a budget that every step of a template pays from.

Jinja's own sandbox keeps a template from Python's internals, not from the processor and the memory. Here the compiled
template asks for permission wherever it can make something large or go round in circles: loops, calls, filters, tests,
operators, literals, slices and output. What grows by multiplication is judged before it is made. Filters and methods
are those of a list, because one step of any other could take for ever. It knows no conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any, Final

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import do_format, do_indent, make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_environment

from dovetail_ort_runtime.template_budget import TemplateBudget, TemplateLimitError, weight

FILTERS: Final = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse"),
    *("round", "safe", "select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "wordcount"),
)
STRING_METHODS: Final = {
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join"),
    *("lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition"),
    *("rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper"),
}
CONTAINER_METHODS: Final = {"copy", "count", "get", "index", "items", "keys", "values"}
_GLOBALS: Final = ("cycler", "dict", "joiner", "range")
_LARGEST_INTEGER_BITS: Final = 4096
# A width or precision of four digits, or one that an argument gives.
_WIDE_PERCENT: Final = re.compile(r"%(\([^)]*\))?[^a-zA-Z%]*(\*|\d{4})")
_WIDE_BRACES: Final = re.compile(r"\{[^{}]*(\{|:[^{}]*\d{4})")

_budget: ContextVar[TemplateBudget] = ContextVar("template_budget")


class _Namespace(Namespace):
    """A namespace whose text does not grow with what it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _BudgetedCode(CodeGenerator):
    """Compiles each place that can make something large into a call of the environment."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.written({super()._output_const_repr(group)})"

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible  # nothing is computed before there is a budget
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.written(")
        super()._output_child_pre(node, frame, finalize)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        super()._output_child_post(node, frame, finalize)
        self.write(")")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802  # jinja2 names it
        if node.recursive:
            self.fail("recursive loops are not for chat templates", node.lineno)
        node.iter = nodes.Call(nodes.EnvironmentAttribute("stepped"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def visit_ScopedEvalContextModifier(  # noqa: N802  # jinja2 names it
        self,
        node: nodes.ScopedEvalContextModifier,
        frame: Frame,  # noqa: ARG002
    ) -> None:
        self.fail("autoescape is not for chat templates", node.lineno)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802  # jinja2 names it
        self.write("environment.joined((")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write("))")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802  # jinja2 names it
        if node.ctx == "load":
            self._paid(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802  # jinja2 names it
        self._paid(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802  # jinja2 names it
        self._paid(super().visit_Dict, node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802  # jinja2 names it
        if isinstance(node.arg, nodes.Slice):
            self._paid(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _paid(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.paid(")
        visit(node, frame)
        self.write(")")


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates; arguments as of jinja2's. Rendering needs a budget: see `spending`."""

    code_generator_class = _BudgetedCode
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, **options)
        self.filters = {name: _paying(self.filters[name]) for name in FILTERS}
        self.filters |= {"format": _format, "indent": _indent, "join": _join, "replace": _replace}
        tests: dict[str, Any] = self.tests
        self.tests = {name: _paying(test) for name, test in tests.items()}
        self.globals = {**{name: self.globals[name] for name in _GLOBALS}, "namespace": _Namespace}

    @contextmanager
    def spending(self, budget: TemplateBudget) -> Iterator[None]:
        """Templates that are rendered within the block pay from this budget."""
        token = _budget.set(budget)
        try:
            yield
        finally:
            _budget.reset(token)

    def stepped(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop."""
        for item in items:
            _budget.get().charge()
            yield item

    def written(self, text: str) -> str:
        """A piece of output."""
        _budget.get().charge(1 + len(text))
        return text

    def joined(self, values: tuple[Any, ...]) -> str:
        """The result of `~`."""
        return "".join(self.written(str(value)) for value in values)

    def paid(self, value: Any) -> Any:
        """A value that was just made."""
        _budget.get().charge_for(value)
        return value

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An element or attribute."""
        _budget.get().charge()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may see an attribute."""
        if isinstance(obj, str):
            return attr in STRING_METHODS
        if isinstance(obj, (dict, list, tuple)):
            return attr in CONTAINER_METHODS
        if isinstance(obj, (int, float, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result of a function, a method or a macro."""
        self.paid((args, kwargs))
        method = getattr(obj, "__wrapped__", obj)  # jinja2 wraps str.format
        if isinstance(method, (BuiltinMethodType, MethodType)) and isinstance(method.__self__, str):
            args = _checked_arguments(method.__self__, method.__name__, args, kwargs)
        return self.paid(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator."""
        _check_operation(operator, left, right)
        return self.paid(super().call_binop(context, operator, left, right))


def _paying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same filter or test; what it is to be given first is noted in its attributes, which are kept."""

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        _budget.get().charge()
        result = function(*args, **kwargs)
        _budget.get().charge_for(result)
        return result

    return paying


def _checked_arguments(text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Arguments of a method of `text` whose result is not larger than the budget."""
    if name in ("format", "format_map"):
        _check_format(_WIDE_BRACES, text.replace("{{", "").replace("}}", ""), text.count("{"), (args, kwargs))
    if name == "replace" and len(args) > 1:
        _charge_replacement(text, *args[:2])
    if name == "join" and args:
        items = list(args[0])
        _budget.get().charge(len(items) * (1 + len(text)) + weight(items))
        return (items,)
    return args


def _check_operation(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        _check_format(_WIDE_PERCENT, left, left.count("%"), right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length(), right.bit_length()
        size = {"*": sum(bits), "**": bits[0] * abs(right)}.get(operator, max(bits))
        if size > _LARGEST_INTEGER_BITS:
            raise TemplateLimitError(f"compute with integers of {_LARGEST_INTEGER_BITS} bits at most, got larger ones")
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(times, int):
                _budget.get().charge(weight(sequence) * max(times, 0))
    elif operator == "+":
        _budget.get().charge(weight(left) + weight(right))


def _check_format(wide: re.Pattern[str], text: str, num_fields: int, values: Any) -> None:
    """Charge for a formatted text; each of its fields may show all of the values."""
    if wide.search(text):
        raise TemplateLimitError(f"format with widths below 1000, got {text!a:.60}")
    _budget.get().charge(len(text) + num_fields * weight(values))


def _charge_replacement(text: str, old: str, new: str) -> None:
    _budget.get().charge(len(text) + text.count(old) * len(new))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(value), str(old), str(new)
    _charge_replacement(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


@pass_environment
def _join(environment: TemplateSandbox, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    separator, texts = str(d), [environment.written(str(item)) for item in items]
    _budget.get().charge(len(separator) * len(texts))
    return separator.join(texts)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    _check_format(_WIDE_PERCENT, str(value), str(value).count("%"), (args, kwargs))
    return do_format(value, *args, **kwargs)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = len(width) if isinstance(width, str) else max(width, 0)
    _budget.get().charge(len(value) + (1 + len(value.splitlines())) * margin)
    return do_indent(value, width, first, blank)
