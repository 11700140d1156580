"""`dovetail-ort pull` against a stand-in of the hub: what is fetched, what is refused before, what is remembered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dovetail_ort
from dovetail_ort.cli.main import main
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import BundleError

WEIGHTS = "model_native.onnx_data"
OTHERS = {"README.md": b"# A card", "config.json": b"{}", "fp32/model.onnx_data": b"x" * 9000}


def files_of(bundle):
    return {path.name: path.read_bytes() for path in Path(bundle).iterdir()}


@pytest.fixture
def files(tiny_bundle):
    return files_of(tiny_bundle)


def refused(argv, capsys):
    """The one line of a command that does not succeed."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert not captured.out
    line = captured.err.splitlines()[-1]
    assert line.startswith("dovetail-ort: ")
    assert "Traceback" not in captured.err
    return line


def test_a_pulled_bundle_is_loaded_by_its_name_with_no_further_request(hub, files, tiny_bundle, capsys):
    commit = hub.add("me/tiny", files | OTHERS)
    assert main(["pull", "me/tiny", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["name"], record["revision"]) == ("me/tiny", commit)
    assert sorted(hub.downloads()) == sorted(files)
    hub.close()
    assert Bundle("me/tiny", "all").directory == Path(record["directory"])
    expected, found = (
        dovetail_ort.load(path, threads=1).generate("A dovetail").token_ids for path in (tiny_bundle, "me/tiny")
    )
    assert found == expected


@pytest.mark.parametrize(
    "argv",
    [
        ["inspect", "me/tiny", "--verify"],
        ["generate", "me/tiny", "A dovetail", "--max-new-tokens", "4"],
        ["doctor", "me/tiny"],
        ["graph", "profile", "me/tiny", "--tokens", "2"],
        ["graph", "diff", "me/tiny", "me/tiny@main"],
    ],
    ids=lambda argv: " ".join(argv[:2]),
)
def test_commands_take_the_name_of_a_pulled_bundle(argv, hub, files):
    hub.add("me/tiny", files)
    assert main(["pull", "me/tiny"]) == 0
    hub.close()
    assert main(argv) == 0


def test_the_revision_and_the_place_are_printed(hub, files, capsys):
    commit = hub.add("me/tiny", files)
    assert main(["pull", "me/tiny"]) == 0
    printed = capsys.readouterr().out
    assert commit in printed
    assert str(Bundle("me/tiny").directory) in printed


def test_a_tag_and_a_commit_are_pulled_as_they_were(hub, files, tiny_bundle_fp32):
    commit = hub.add("me/tiny", files)
    hub.repositories["me/tiny"].commit(files_of(tiny_bundle_fp32), "v2")
    assert main(["pull", "me/tiny@v2"]) == 0
    assert main(["pull", f"me/tiny@{commit}"]) == 0
    assert Bundle("me/tiny@v2").manifest.target.precision == "fp32"
    assert Bundle(f"me/tiny@{commit}").manifest.target.precision == "int8"
    with pytest.raises(BundleError, match=r"dovetail-ort pull me/tiny$"):
        Bundle("me/tiny")  # main was not asked for


def test_a_tag_that_begins_like_its_commit_is_a_tag(hub, files):
    commit = hub.add("me/tiny", files)
    hub.repositories["me/tiny"].refs[commit[0]] = commit
    assert main(["pull", f"me/tiny@{commit[0]}"]) == 0
    assert Bundle(f"me/tiny@{commit[0]}").directory.name == commit


def test_what_is_here_is_not_fetched_again_and_a_new_commit_is(hub, files):
    hub.add("me/tiny", files)
    assert main(["pull", "me/tiny"]) == 0
    first = Bundle("me/tiny").directory
    hub.requests.clear()
    assert main(["pull", "me/tiny"]) == 0
    assert hub.downloads() == ["manifest.json"]
    hub.repositories["me/tiny"].commit(files | {"README.md": b"changed"})
    assert main(["pull", "me/tiny"]) == 0
    assert WEIGHTS not in hub.downloads()
    assert Bundle("me/tiny").directory != first


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", WEIGHTS])
def test_what_is_damaged_in_the_cache_is_fetched_again(name, hub, files):
    hub.add("me/tiny", files)
    assert main(["pull", "me/tiny"]) == 0
    blob = (Bundle("me/tiny").directory / name).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert main(["pull", "me/tiny"]) == 0
    assert Bundle("me/tiny", "all")


@pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS])
def test_a_download_that_breaks_off_is_not_called_done(name, hub, files, capsys):
    hub.add("me/tiny", files)
    hub.fail = lambda request: -1 if request.startswith("GET") and request.endswith(f"/{name}") else None
    refused(["pull", "me/tiny"], capsys)
    with pytest.raises(BundleError, match=r"run: dovetail-ort pull me/tiny$"):
        Bundle("me/tiny")
    hub.fail = lambda request: None
    assert main(["pull", "me/tiny"]) == 0
    assert Bundle("me/tiny", "all")


def test_a_new_commit_that_breaks_off_leaves_the_old_one(hub, files, tiny_bundle_fp32, capsys):
    hub.add("me/tiny", files)
    assert main(["pull", "me/tiny"]) == 0
    hub.repositories["me/tiny"].commit(files_of(tiny_bundle_fp32))
    hub.fail = lambda request: 403 if request.endswith("/model.onnx_data") else None
    capsys.readouterr()
    refused(["pull", "me/tiny"], capsys)
    assert Bundle("me/tiny", "all").manifest.target.precision == "int8"


def test_a_model_that_is_no_bundle_is_refused_before_anything_is_fetched(hub, capsys):
    hub.add("me/model", {"config.json": b"{}", "model.safetensors": b"x" * 10_000})
    assert "dovetail-ort export me/model OUT" in refused(["pull", "me/model"], capsys)
    assert hub.downloads() == []


def damaged(files, change):
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    return files | {"manifest.json": json.dumps(manifest).encode()}


def without(files, name):
    return {path: content for path, content in files.items() if path != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files | {"manifest.json": b"{}"}, "is this a bundle?"),
        (lambda files: files | {"manifest.json": b"\xff"}, "must be UTF-8"),
        (lambda files: files | {"manifest.json": b" " * 5_000_000}, "4194304 bytes at most"),
        (lambda files: damaged(files, lambda manifest: manifest.update(version=3)), "version must be 2 or 1"),
        (lambda files: without(files, WEIGHTS), f"'{WEIGHTS}'"),
        (lambda files: files | {WEIGHTS: files[WEIGHTS][:-1]}, f"'{WEIGHTS}'"),
        (lambda files: damaged(files, lambda manifest: manifest["files"][0].update(path="../x")), "'../x'"),
    ],
    ids=["no manifest", "no text", "too large", "another version", "a file less", "a byte less", "a path out"],
)
def test_a_broken_bundle_is_refused_before_its_weights_are_fetched(change, words, hub, files, capsys):
    hub.add("me/tiny", change(files))
    assert words in refused(["pull", "me/tiny"], capsys)
    assert WEIGHTS not in hub.downloads()


def test_weights_that_are_not_those_of_the_manifest_are_never_remembered(hub, files, capsys):
    hub.add("me/tiny", files | {WEIGHTS: files[WEIGHTS][:-1] + b"?"})
    line = refused(["pull", "me/tiny"], capsys)
    assert WEIGHTS in line
    assert "dovetail-ort pull" not in line  # it would fetch the same
    with pytest.raises(BundleError, match=r"run: dovetail-ort pull me/tiny$"):
        Bundle("me/tiny")


@pytest.mark.parametrize("token", ["", "hf_guest", "hf_unknown"])
def test_a_private_model_names_the_login(token, hub, files, capsys, monkeypatch):
    hub.add("me/tiny", files, private=True)
    monkeypatch.setenv("HF_TOKEN", token)
    line = refused(["pull", "me/tiny"], capsys)
    assert "`hf auth login`" in line
    assert "HF_TOKEN" in line
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    assert main(["pull", "me/tiny"]) == 0


@pytest.mark.parametrize(("token", "status"), [("", "401"), ("hf_guest", "403")])
def test_a_gated_model_names_where_to_ask(token, status, hub, files, capsys, monkeypatch):
    hub.add("me/tiny", files, gated=True)
    monkeypatch.setenv("HF_TOKEN", token)
    line = refused(["pull", "me/tiny"], capsys)
    assert status in line
    assert f"{hub.endpoint}/me/tiny" in line
    assert "`hf auth login`" in line


@pytest.mark.parametrize("token", ["", "hf_owner"])
def test_a_model_that_is_not_there_says_to_check_the_name(token, hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    assert "check the name" in refused(["pull", "me/tiny"], capsys)


def test_a_revision_that_is_not_there_is_named(hub, files, capsys):
    hub.add("me/tiny", files)
    assert "'v9'" in refused(["pull", "me/tiny@v9"], capsys)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_down_is_said_with_its_status(status, hub, files, capsys):
    hub.add("me/tiny", files)
    hub.fail = lambda request: status
    assert str(status) in refused(["pull", "me/tiny"], capsys)


def test_without_a_connection_the_address_is_named(hub, files, capsys):
    hub.add("me/tiny", files)
    hub.close()
    line = refused(["pull", "me/tiny"], capsys)
    assert hub.endpoint in line
    assert "connection" in line


def test_offline_is_said_by_the_variable_that_asked_for_it(hub, files, capsys, monkeypatch):
    from huggingface_hub import constants

    hub.add("me/tiny", files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(["pull", "me/tiny"], capsys)


def test_a_full_disk_is_said_with_the_cache_and_nothing_is_remembered(hub, files, full_disk, capsys):
    hub.add("me/tiny", files)
    with full_disk():
        status = main(["pull", "me/tiny"])
    assert status == 2
    assert "HF_HUB_CACHE" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(BundleError, match=r"run: dovetail-ort pull me/tiny$"):
        Bundle("me/tiny")


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "./me/tiny", "me/tiny@", "https://hub/me/tiny"])
def test_what_is_no_name_is_refused_without_a_request(name, hub, capsys):
    assert "owner/name" in refused(["pull", name], capsys)
    assert hub.requests == []


def test_the_client_is_named_where_it_is_missing(hub, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "dovetail-ort[hub]"' in refused(["pull", "me/tiny"], capsys)


def test_a_cache_that_is_removed_is_pulled_again(hub, files, tmp_path):
    hub.add("me/tiny", files)
    assert main(["pull", "me/tiny"]) == 0
    shutil.rmtree(tmp_path / "hub")
    assert main(["pull", "me/tiny"]) == 0
    assert Bundle("me/tiny", "all")


def test_the_environment_alone_names_hub_cache_and_token(hub, files, tmp_path):
    hub.add("me/tiny", files, private=True)
    names = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_owner", "HF_HOME": str(tmp_path / "home")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | names
    command = [sys.executable, "-m", "dovetail_ort", "pull", "me/tiny", "--json"]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout
    assert json.loads(printed)["directory"].startswith(str(tmp_path / "home" / "hub"))
    code = "import sys, dovetail_ort; dovetail_ort.load('me/tiny', threads=1)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
