"""What a release is known by says the same everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def read(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_the_citation_has_the_version_and_licence_of_the_project():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    citation = dict(re.findall(r"^(\w[\w-]*): (\S+)$", read("CITATION.cff"), re.MULTILINE))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_the_changelog_opens_with_what_is_unreleased_and_has_an_entry_for_the_version():
    first, *releases = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert first == "Unreleased"
    assert tomllib.loads(read("pyproject.toml"))["project"]["version"] in releases
