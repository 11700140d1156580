"""Marked blocks of a page."""

from __future__ import annotations

import re

import pytest

from benchmarks import render
from benchmarks.result_files import REPOSITORY, XEON_AMX, make_target


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    monkeypatch.setattr(render, "TABLES", {"speed": lambda: "| 1 |", "size": lambda: "two"})


def page(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_stands_between_markers_is_replaced_and_nothing_else(tmp_path):
    text = "a\n\n<!-- begin: speed -->\nold\n<!-- end: speed -->\n\nb\n<!-- begin: size -->\n<!-- end: size -->\n"
    expected = (
        "a\n\n<!-- begin: speed -->\n\n| 1 |\n\n<!-- end: speed -->\n\nb\n"
        "<!-- begin: size -->\n\ntwo\n\n<!-- end: size -->\n"
    )
    assert render.rendered(page(tmp_path, text)) == expected
    assert render.rendered(page(tmp_path, expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "<!-- begin: speed -->\n",
        "<!-- end: speed -->\n",
        "<!-- begin: speed -->\n<!-- end: size -->\n",
        "<!-- begin: speed -->\n<!-- begin: size -->\n<!-- end: size -->\n<!-- end: speed -->\n",
    ],
)
def test_a_marker_without_its_counterpart_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match="begin marker"):
        render.rendered(page(tmp_path, text))


def test_a_marker_without_a_table_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="weight"):
        render.rendered(page(tmp_path, "<!-- begin: weight -->\n<!-- end: weight -->\n"))


def test_in_place_of_a_missing_result_is_the_target_that_writes_it(tmp_path, monkeypatch):
    def speed():
        raise FileNotFoundError(2, "No such file or directory", "results/machine/serve-load.json")

    monkeypatch.setattr(render, "TABLES", {"speed": speed})
    text = "<!-- begin: speed -->\n<!-- end: speed -->\n"
    expected = "<!-- begin: speed -->\n\nMeasure it here: `make load`.\n\n<!-- end: speed -->\n"
    assert render.rendered(page(tmp_path, text)) == expected


def test_the_target_of_each_result_file_is_the_one_that_the_page_of_targets_names():
    page = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for target, files in re.findall(r"^\| `make ([a-z-]+)` \| ([^|]*) \|", page, re.MULTILINE):
        for name in re.findall(r"`([a-z-]+)`", files):
            assert make_target(XEON_AMX / f"{name}.json") == target
