"""Files that stay in a bundle are linked, and nothing that is written later reaches the bundle they came from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dovetail_ort_export.writing import bundle_output
from dovetail_ort_export.writing.bundle_output import file_entries, link_without, write_manifest
from dovetail_ort_runtime.bundle.bundle import Bundle


@pytest.fixture
def bundle(damaged):
    """A bundle of this test's own."""
    return Bundle(damaged)


@pytest.fixture
def new(tmp_path):
    """An empty directory beside it."""
    (tmp_path / "new").mkdir()
    return tmp_path / "new"


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_files_that_stay_are_the_same_files_with_their_entries(bundle, new):
    kept = link_without(bundle, (), new)
    assert kept == bundle.manifest.files
    for entry in kept:
        assert bundle.path(entry.path).samefile(new / entry.path)


def test_a_graph_that_is_left_out_leaves_its_weights_out_too(bundle, new):
    kept = link_without(bundle, (bundle.manifest.target.graph,), new)
    assert {path.name for path in new.iterdir() if path.is_file()} == {entry.path for entry in kept}
    assert not any(entry.path.startswith("model_native.onnx") for entry in kept)


def test_files_are_copied_where_they_cannot_be_linked(bundle, new, monkeypatch):
    def refuse(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(type(new), "hardlink_to", refuse)
    kept = link_without(bundle, (), new)
    for entry in kept:
        assert not bundle.path(entry.path).samefile(new / entry.path)
    assert file_entries(new) == file_entries(new, kept)


def test_a_link_in_a_bundle_becomes_the_file_behind_it(bundle, new):
    name = bundle.manifest.tokenizer.file
    path = bundle.path(name)
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    link_without(bundle, (), new)
    assert not (new / name).is_symlink()
    assert (new / name).read_bytes() == path.read_bytes()


def test_only_new_files_are_hashed(bundle, new, monkeypatch):
    hashed = []
    kept = link_without(bundle, (), new)
    (new / "file").write_bytes(b"file")
    monkeypatch.setattr(bundle_output, "sha256", lambda path: hashed.append(path.name) or "0" * 64)
    found = file_entries(new, kept)
    assert hashed == ["file"]
    assert [entry.path for entry in found] == sorted([*(entry.path for entry in kept), "file"])


def test_a_manifest_takes_the_place_of_a_linked_one_and_leaves_the_first(bundle, new):
    before = contents(bundle.directory)
    (new / "manifest.json").hardlink_to(bundle.directory / "manifest.json")
    write_manifest(replace(bundle.manifest, drafter=None), new)
    assert contents(bundle.directory) == before
