"""The site that `make docs` makes has every public name and loads nothing from elsewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("dovetail_ort", "dovetail_ort_runtime", "dovetail_ort_export")
PAGES = [*sorted(REPOSITORY.glob("docs/*.md")), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
FOLDERS = (".github", "benchmarks", "dovetail_ort", "export", "examples", "models", "runtime", "tests")
TARGETS = {
    target
    for makefile in ("Makefile", "benchmarks/benchmarks.mk")
    for target in re.findall(r"^([a-z-]+):", (REPOSITORY / makefile).read_text(encoding="utf-8"), re.MULTILINE)
}
SOURCES = [file for folder in FOLDERS for file in (REPOSITORY / folder).rglob("*.*")] + [REPOSITORY / "pyproject.toml"]
# The attribute of an element by which a browser loads something; a link that a reader follows is `a`.
LOADED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
}


class Resources(HTMLParser):
    """Addresses that a browser loads with a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        address = dict(attrs).get(LOADED.get(tag, ""))
        if address is not None:
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-c", "docs"]
    command += ["-d", str(made / "doctrees"), ".", str(made / "html")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made / "html"


def name_is_of(name, file):
    """Whether a path, or the end of one, is that of a file."""
    return f"/{file.relative_to(REPOSITORY).as_posix()}".endswith(f"/{name}")


def is_elsewhere(address):
    return re.match(r"\s*(?:https?:)?//", address) is not None


@pytest.mark.slow
def test_every_public_name_is_described(site):
    page = (site / "docs" / "api.html").read_text(encoding="utf-8")
    described = [name.rpartition(".") for name in re.findall(r'<dt [^>]*id="([\w.]+)"', page)]
    values = {
        id(getattr(importlib.import_module(package), name)) for package, _, name in described if package in PACKAGES
    }
    for package in map(importlib.import_module, PACKAGES):
        assert [name for name in package.__all__ if id(getattr(package, name)) not in values] == []


@pytest.mark.slow
def test_the_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert [address for address in resources.found if is_elsewhere(address)] == []


@pytest.mark.slow
def test_the_style_sheets_load_nothing_from_elsewhere(site):
    for sheet in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s]+)", sheet.read_text(encoding="utf-8"))
        assert [address for address in loaded if is_elsewhere(address)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_source_file_that_a_page_names_exists(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`([\w./-]+\.(?:py|h|cpp|toml|yml))`", text)
    assert [name for name in named if not any(name_is_of(name, file) for file in SOURCES)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_make_target_that_a_page_names_exists(page):
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= TARGETS
