"""Jinja for templates that nobody has read: its sandbox, with a budget that every step of a template pays from.

Jinja's own sandbox protects Python's internals, but neither the processor nor the memory. Here the compiled template
pays wherever it can make something large or repeat itself: loops, calls, filters, tests, operators, literals, slices
and output. Only listed filters and methods exist, because one call of another could run for ever. It knows no
conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import BuiltinMethodType, MethodType
from typing import Any, Final

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from dovetail_ort_runtime.text.template_budget import current_budget
from dovetail_ort_runtime.text.template_steps import (
    CHECKED_FILTERS,
    NUMBER_TESTS,
    check_operation,
    checked_arguments,
    of_numbers,
    paying,
)

FILTERS: Final = (
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "int",
    "items",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "safe",
    "select",
    "selectattr",
    "sort",
    "string",
    "title",
    "unique",
    "upper",
    "wordcount",
)
STRING_METHODS: Final = {
    "capitalize",
    "casefold",
    "count",
    "endswith",
    "find",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
}
CONTAINER_METHODS: Final = {"copy", "count", "get", "index", "items", "keys", "values"}
_GLOBALS: Final = ("cycler", "dict", "joiner", "range")


class _Namespace(Namespace):
    """A namespace whose text does not grow with its content."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _BudgetedCode(CodeGenerator):
    """Compiles each place where a template pays into a call of the environment."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.written({super()._output_const_repr(group)})"

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible  # while a template is compiled there is no budget
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

    def visit_ScopedEvalContextModifier(self, node: nodes.Node, frame: Frame) -> None:  # noqa: N802, ARG002  # as above
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
    """Jinja's environment for chat templates. They must be rendered within `spending`."""

    code_generator_class = _BudgetedCode
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, **options)
        filters: dict[str, Any] = {name: self.filters[name] for name in FILTERS} | CHECKED_FILTERS
        self.filters = {name: paying(function) for name, function in filters.items()}
        known: dict[str, Any] = self.tests
        tests = known | {name: of_numbers(known[name]) for name in NUMBER_TESTS}
        self.tests = {name: paying(test) for name, test in tests.items()}
        self.globals = {name: self.globals[name] for name in _GLOBALS} | {"namespace": _Namespace}

    def stepped(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop, each paid for."""
        for item in items:
            current_budget().charge()
            yield item

    def written(self, text: str) -> str:
        """A piece of output, paid for."""
        current_budget().charge(1 + len(text))
        return text

    def joined(self, values: tuple[Any, ...]) -> str:
        """The result of the operator `~`, paid for."""
        return "".join(self.written(str(value)) for value in values)

    def paid(self, value: Any) -> Any:
        """A value that was just made, paid for."""
        current_budget().charge_for(value)
        return value

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An element or attribute of an object."""
        current_budget().charge()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute."""
        if isinstance(obj, str):
            return attr in STRING_METHODS
        if isinstance(obj, (dict, list, tuple)):
            return attr in CONTAINER_METHODS
        if isinstance(obj, (int, float, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result of a function, a method or a macro, paid for."""
        self.paid((args, kwargs))
        method = getattr(obj, "__wrapped__", obj)  # jinja2 wraps str.format
        if isinstance(method, (BuiltinMethodType, MethodType)) and isinstance(method.__self__, str):
            args = checked_arguments(method.__self__, method.__name__, args, kwargs)
        return self.paid(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator, paid for."""
        check_operation(operator, left, right)
        return self.paid(super().call_binop(context, operator, left, right))
