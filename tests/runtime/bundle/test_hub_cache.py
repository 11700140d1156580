"""Models in the hub's cache, whose layout huggingface_hub itself is the oracle of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from dovetail_ort_runtime.bundle import hub_cache
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.hub_cache import HubName, find_snapshot, hub_cache_directory
from dovetail_ort_runtime.errors import BundleError
from dovetail_ort_runtime.model import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # that of `in_hub_cache`
OTHER_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
WEIGHTS = "model_native.onnx_data"
ORACLE = """
import sys
from huggingface_hub import constants, try_to_load_from_cache
if len(sys.argv) == 1:
    print(constants.HF_HUB_CACHE)
else:
    print(try_to_load_from_cache(sys.argv[1], "manifest.json", revision=sys.argv[2]))
"""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache that the environment names."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def put(cache, in_hub_cache):
    """`put(bundle)`: its snapshot in that cache, where it is me/tiny; arguments as in `in_hub_cache`."""
    return partial(in_hub_cache, cache=cache)


@pytest.fixture
def snapshot(put, tiny_bundle):
    """The tiny bundle in the cache, as me/tiny on its main branch."""
    return put(tiny_bundle)


def relink(path, target):
    path.unlink()
    path.symlink_to(target)


def refused(snapshot):
    with pytest.raises(BundleError, match="a path in the manifest must stay inside the bundle"):
        Bundle(snapshot)


@pytest.mark.parametrize("made", ["tiny_bundle", "tiny_bundle_fp32", "tiny_drafting_bundle"])
def test_a_bundle_in_the_cache_answers_as_the_one_that_was_uploaded(made, put, request):
    bundle = request.getfixturevalue(made)
    expected, found = (load_model(path, threads=1).generate("A dovetail").token_ids for path in (bundle, put(bundle)))
    assert found == expected


def test_weights_may_lie_in_the_store_that_repositories_share(put, cache, tiny_bundle):
    snapshot = put(tiny_bundle, shared=True)
    assert (snapshot / WEIGHTS).resolve().parent.parent == cache / "blobs"
    assert load_model(snapshot, threads=1, verify="all").generate("A").token_ids


def test_a_bundle_in_a_folder_of_a_repository_loads(put, cache, tiny_bundle):
    directory = put(tiny_bundle, folder="int8/native") / "int8" / "native"
    assert load_model(directory, threads=1, verify="all").generate("A").token_ids
    (directory / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=f"run: hf download me/tiny --revision {COMMIT}$"):
        Bundle(directory)


def test_a_folder_that_is_a_link_out_of_the_snapshot_is_refused(snapshot, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "tokenizer.json").symlink_to((snapshot / "tokenizer.json").resolve())
    (snapshot / "folder").symlink_to(outside)
    manifest = (snapshot / "manifest.json").resolve()
    manifest.write_text(manifest.read_text().replace('"tokenizer.json"', '"folder/tokenizer.json"'))
    refused(snapshot)


def test_a_cache_that_is_reached_through_a_link_is_the_same(snapshot, cache, tmp_path):
    (tmp_path / "link").symlink_to(cache)
    through = tmp_path / "link" / snapshot.relative_to(cache)
    Bundle(through, "all")
    relink(snapshot / "tokenizer.json", tmp_path / "link" / (snapshot / "tokenizer.json").resolve().relative_to(cache))
    Bundle(through, "all")


def test_real_files_in_a_snapshot_are_a_bundle(put, cache, tiny_bundle):
    snapshot = cache / "models--me--tiny" / "snapshots" / COMMIT
    shutil.copytree(tiny_bundle, snapshot)  # where links cannot be made
    Bundle(snapshot, "all")


@pytest.mark.parametrize(
    "target",
    [
        "/etc/hostname",
        "../../../outside",
        "../../blobs/../../outside",
        "../../outside",
        "../../blobs",
        "../../blobs/..",
        "../../blobs/.",
        "../../blobs/folder/inner",
        "../../../models--me--other/blobs/secret",
        "../OTHER/secret",
    ],
)
def test_a_link_to_anything_but_a_blob_of_the_repository_is_refused(target, snapshot, cache):
    repository = snapshot.parent.parent
    (repository / "blobs" / "folder").mkdir()
    (cache / "models--me--other" / "blobs").mkdir(parents=True)
    (repository / "snapshots" / "OTHER").mkdir()
    content = (snapshot / "tokenizer.json").read_bytes()
    for place in (
        *(cache / "outside", repository / "outside", repository / "blobs" / "folder" / "inner"),
        *(cache / "models--me--other" / "blobs" / "secret", repository / "snapshots" / "OTHER" / "secret"),
    ):
        place.write_bytes(content)
    relink(snapshot / "tokenizer.json", target)
    refused(snapshot)


def test_a_blob_that_is_a_link_is_refused(snapshot, cache):
    blob = (snapshot / "tokenizer.json").resolve()
    outside = blob.rename(cache / "outside")
    blob.symlink_to(outside)
    refused(snapshot)
    relink(blob, blob.with_name("second"))
    shutil.copyfile(outside, blob.with_name("second"))
    refused(snapshot)


def test_blobs_behind_a_link_are_refused(snapshot, cache):
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(cache / "outside")
    blobs.symlink_to(cache / "outside")
    refused(snapshot)


@pytest.mark.parametrize("damage", ["no marker", "another name", "a link", "a store behind a link"])
def test_a_shared_content_in_any_other_form_is_refused(damage, put, cache, tiny_bundle):
    snapshot = put(tiny_bundle, shared=True)
    blob = snapshot.parent.parent / "blobs" / (snapshot / WEIGHTS).readlink().name
    content = blob.resolve()
    if damage == "no marker":
        (cache / "blobs" / ".huggingface-shared-blobs").unlink()
    elif damage == "another name":
        relink(blob, content.rename(content.with_name("secret")))
    elif damage == "a link":
        content.rename(cache / "outside")
        content.symlink_to(cache / "outside")
    else:
        (cache / "blobs").rename(cache / "elsewhere")
        (cache / "blobs").symlink_to(cache / "elsewhere")
    refused(snapshot)


@pytest.mark.parametrize(
    "place",
    [
        "models--me--tiny/snapshots/main",
        "models--me--tiny/other/" + COMMIT,
        "datasets--me--tiny/snapshots/" + COMMIT,
        "tiny/snapshots/" + COMMIT,
    ],
)
def test_a_directory_elsewhere_may_have_no_link_out_of_it(place, snapshot, tmp_path):
    other = tmp_path / "elsewhere" / place
    other.parent.mkdir(parents=True)
    shutil.copytree(snapshot, other, symlinks=True)
    shutil.copytree(snapshot.parent.parent / "blobs", other.parent.parent / "blobs")
    assert (other / "tokenizer.json").is_file()
    refused(other)


def test_a_name_is_a_snapshot_of_the_cache(snapshot, put, cache, tiny_bundle):
    tagged = put(tiny_bundle, commit=OTHER_COMMIT, ref="v1.0")
    nested = put(tiny_bundle, commit="1" * 40, ref="refs/pr/3")
    for name, expected in {
        "me/tiny": snapshot,
        "me/tiny@main": snapshot,
        "me/tiny@v1.0": tagged,
        "me/tiny@refs/pr/3": nested,
        f"me/tiny@{COMMIT}": snapshot,
        f"me/tiny@{OTHER_COMMIT[:7]}": tagged,
    }.items():
        assert Bundle(name).directory == expected
    assert load_model("me/tiny", threads=1).generate("A").token_ids


def test_names_mean_what_huggingface_hub_finds(snapshot, put, cache, tiny_bundle):
    put(tiny_bundle, commit=OTHER_COMMIT, ref="v1.0")
    for revision in ("main", "v1.0", OTHER_COMMIT):
        found = oracle("me/tiny", revision)
        assert find_snapshot(HubName(repository="me/tiny", revision=revision)) == Path(found).parent


def oracle(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    if "XDG_CACHE_HOME" not in variables:
        environment.pop("XDG_CACHE_HOME", None)
    environment |= {"HF_HUB_CACHE": os.environ["HF_HUB_CACHE"]} if arguments else variables
    command = [sys.executable, "-W", "ignore", "-c", ORACLE, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/caches"},
        {"XDG_CACHE_HOME": "/caches", "HF_HOME": "~/hugging"},
        {"HF_HOME": "$PLACE/hugging", "PLACE": "/tmp"},
        {"HF_HOME": "/hugging", "HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HOME": "/hugging", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"},
    ],
)
def test_the_cache_is_where_huggingface_hub_looks_for_it(variables, monkeypatch):
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(hub_cache_directory()) == oracle(**variables)


def test_without_a_home_directory_a_name_is_not_there(monkeypatch):
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user who has no entry
    with pytest.raises(BundleError, match=r"run: dovetail-ort pull me/tiny$"):
        Bundle("me/tiny")


def test_a_directory_of_that_name_wins(snapshot, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle, tmp_path / "me" / "tiny")
    assert Bundle("me/tiny").directory == Path("me/tiny")
    shutil.rmtree(tmp_path / "me" / "tiny")
    assert Bundle("me/tiny").directory == snapshot


@pytest.mark.parametrize("name", ["me/other", "me/tiny@v2", "me/tiny@" + OTHER_COMMIT, "me/tiny@0123456789abcdee"])
def test_what_the_cache_does_not_have_is_an_error_with_the_command_that_fetches_it(name, snapshot):
    with pytest.raises(BundleError, match=f"run: dovetail-ort pull {name}$"):
        load_model(name)


def test_a_short_commit_of_two_is_not_there(snapshot, put, cache, tiny_bundle):
    put(tiny_bundle, commit=COMMIT[:-1] + "0", ref="other")
    with pytest.raises(BundleError, match="dovetail-ort pull"):
        Bundle(f"me/tiny@{COMMIT[:12]}")


@pytest.mark.parametrize("name", ["me/tiny@../../secret", "me/tiny@/etc/passwd", "me/tiny@a//b", "me/tiny@a/./b"])
def test_a_revision_cannot_lead_out_of_the_cache(name, snapshot, cache):
    (cache / "secret").write_text(COMMIT)
    assert HubName.parse(name) is None
    with pytest.raises(BundleError, match="a bundle must be a directory with a manifest"):
        Bundle(name)


@pytest.mark.parametrize(
    "text",
    ["tiny", "a/b/c", "./tiny", "../tiny", "/me/tiny", "me/", "me/tiny@", "me/a--b", "me/a..b", "me/-x", "m e/x"],
)
def test_other_texts_are_no_names(text):
    assert HubName.parse(text) is None


def test_a_reference_that_is_no_commit_is_not_followed(snapshot, cache):
    (cache / "secret").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("../../../secret")
    with pytest.raises(BundleError, match="run: dovetail-ort pull me/tiny"):
        Bundle("me/tiny")


@pytest.mark.parametrize("name", ["manifest.json", WEIGHTS, "tokenizer.json"])
def test_a_partial_snapshot_names_the_command_that_fetches_the_rest(name, snapshot):
    (snapshot / name).unlink()
    with pytest.raises(BundleError, match=f"run: dovetail-ort pull me/tiny@{COMMIT}$"):
        Bundle("me/tiny")


def test_a_link_whose_blob_is_gone_counts_as_missing(snapshot):
    (snapshot / WEIGHTS).resolve().unlink()
    with pytest.raises(BundleError, match=f"{WEIGHTS}' is missing; run: dovetail-ort pull me/tiny@{COMMIT}$"):
        Bundle(snapshot)


def test_the_error_for_a_model_that_is_no_bundle_says_how_to_make_one(cache):
    snapshot = cache / "models--me--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({}))
    with pytest.raises(BundleError, match=f"dovetail-ort export me/tiny@{COMMIT} OUT"):
        Bundle(snapshot)


def test_looking_for_a_name_opens_no_connection_and_needs_no_client(snapshot):
    code = (
        "import sys, socket\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "sys.modules['huggingface_hub'] = None\n"
        "import dovetail_ort\n"
        "dovetail_ort.load('me/tiny', threads=1).generate('A')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_layout_is_that_of_the_installed_huggingface_hub():
    from huggingface_hub.file_download import repo_folder_name

    name = HubName(repository="me/tiny")
    assert hub_cache.repository_directory(name).name == repo_folder_name(repo_id="me/tiny", repo_type="model")
