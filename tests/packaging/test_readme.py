"""The pages are as the committed result files render them, and the README's commands exist."""

from __future__ import annotations

import re

import pytest

from benchmarks.render import names, pages, rendered
from benchmarks.result_files import REPOSITORY
from benchmarks.tables import TABLES
from dovetail_ort.commands import COMMANDS


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_page_is_as_its_result_files_render_it(page):
    assert rendered(page) == page.read_text(encoding="utf-8")


def test_every_marker_has_a_table_and_every_table_stands_in_one_page():
    found = [name for page in pages() for name in names(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(TABLES)


def test_every_command_of_the_readme_exists_and_every_command_is_in_it():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`dovetail-ort (\w+)", readme)) == set(COMMANDS)
