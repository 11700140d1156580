"""How Sphinx makes the site of the pages: `make docs`.

The pages are plain Markdown, which must read well without the site. So what only the site needs is added here when a
page is read: the navigation, from the tables of `docs/index.md`, and the API reference, from `__all__` of the packages.
"""

from __future__ import annotations

import importlib
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment

REPOSITORY: Final = Path(__file__).parents[1]
# A name is described in the first of these that publishes it.
PACKAGES: Final = ("dovetail_ort", "dovetail_ort_runtime", "dovetail_ort_export")
_LINK: Final = re.compile(r"\[(?P<title>[^]]+)\]\((?P<page>[\w./-]+)\.md\)")

project = "dovetail-ort"
author = "the authors of dovetail-ort"
release = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The root of the repository is the source, so that links to README.md and its neighbours hold.
include_patterns = ["*.md", "docs/*.md", "benchmarks/README.md", "benchmarks/*/README.md", "models/*/README.md"]
exclude_patterns = [".*", "build", "dist", "tests"]
root_doc = "docs/index"

myst_enable_extensions = ["tasklist"]
# As GitHub does it: every heading is a target.
myst_heading_anchors = 6
highlight_language = "none"
# `name` in a docstring is code, and a link where the name is public.
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Names of types that are shown as they are written.
autodoc_type_aliases = {name: name for name in ("FloatArray", "TokenArray", "Prompt", "FinishReason")}
maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# The signature above the list has the types.
napoleon_attr_annotations = False

html_theme = "furo"
html_title = project
html_extra_path = ["site/index.html"]
html_static_path = ["site/site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Connect the additions to pages and the links between names, and call attributes as the docstrings do."""
    app.connect("source-read", add_to_page)
    app.connect("missing-reference", link_to_public_name)
    app.connect("autodoc-process-signature", show_aliases)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"


def add_to_page(_app: Sphinx, page: str, source: list[str]) -> None:
    """Append what a page has on the site only."""
    if page == root_doc:
        source[0] += navigation(source[0])
    if page == "docs/api":
        source[0] += reference()


def navigation(index: str) -> str:
    """The tables of contents: a part for each section of the index, every page in the first part that links to it."""
    seen: set[str] = set()
    lines = []
    for section in index.split("\n## ")[1:]:
        caption = section.partition("\n")[0]
        lines += ["", "```{toctree}", ":hidden:", f":caption: {caption}", ""]
        for title, link in _LINK.findall(section):
            page = posixpath.normpath(posixpath.join("docs", link))
            if page not in seen:
                lines.append(f"{title[0].upper()}{title[1:]} </{page}>")
            seen.add(page)
        lines += ["```"]
    return "\n".join(lines)


def reference() -> str:
    """Directives for every public name, below a heading for each package."""
    lines = []
    seen: set[int] = set()
    for package in map(importlib.import_module, PACKAGES):
        lines += ["", f"## {package.__name__}", "", "```{eval-rst}"]
        for name in package.__all__:
            value = getattr(package, name)
            if id(value) not in seen:
                lines += directive(f"{package.__name__}.{name}", value)
            seen.add(id(value))
        lines += ["```"]
    return "\n".join(lines)


def directive(full_name: str, value: Any) -> Iterator[str]:
    """Lines of reStructuredText that describe one name."""
    if not isinstance(value, type):
        yield f".. autofunction:: {full_name}"
    elif issubclass(value, BaseException):
        yield f".. autoexception:: {full_name}"
        yield "   :show-inheritance:"
    else:
        # A Protocol is not made by calling it.
        arguments = "()" if Protocol in value.__bases__ else ""
        yield f".. autoclass:: {full_name}{arguments}"
        yield "   :members:"
    yield ""


def show_aliases(
    _app: Sphinx, _kind: str, _name: str, _value: Any, _options: Any, parameters: str | None, result: str | None
) -> tuple[str | None, ...]:
    """Write `FloatArray | None` where a union has an alias that autodoc does not look up."""
    return tuple(text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in (parameters, result))


def link_to_public_name(
    app: Sphinx, environment: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Link a type to its description: a signature names the module of a class, the reference the package."""
    name = node.get("reftarget", "").rpartition(".")[2]
    python = environment.get_domain("py")
    for package in map(importlib.import_module, PACKAGES):
        if name in package.__all__:
            target = f"{package.__name__}.{name}"
            return python.resolve_xref(environment, node["refdoc"], app.builder, "obj", target, node, content)
    return None
