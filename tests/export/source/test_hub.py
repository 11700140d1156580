"""A model from the hub against a stand-in: which files come, from where, and what a refusal says."""

from __future__ import annotations

import json

import pytest

from dovetail_ort_export.source.hub import fetch
from dovetail_ort_runtime.errors import DovetailError, SourceError, UnavailableError

TEXTS = {
    "config.json": b"{}",
    "generation_config.json": b'{"file": "generation_config"}',
    "tokenizer.json": b'{"file": "tokenizer"}',
    "tokenizer_config.json": b'{"file": "tokenizer_config"}',
    "special_tokens_map.json": b'{"file": "special_tokens_map"}',
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"---\nlicense: mit\n---\n",
}
WHOLE = TEXTS | {"model.safetensors": b"w" * 20_000}
SHARDS = {f"model-0000{number}-of-00002.safetensors": bytes([number]) * 9000 for number in (1, 2)}
INDEX = json.dumps({"weight_map": {f"layer.{number}": name for number, name in enumerate(SHARDS)}}).encode()
SHARDED = TEXTS | SHARDS | {"model.safetensors.index.json": INDEX}
COPIES = {
    "onnx/model.onnx": b"o" * 9000,
    "original/consolidated.00.pth": b"p" * 9000,
    "original/params.json": b"{}",
    "consolidated.safetensors": b"c" * 9000,
    "model.fp16.safetensors": b"h" * 9000,
    "pytorch_model.bin": b"b" * 9000,
    "model-q4.gguf": b"g" * 9000,
    "tf_model.h5": b"t" * 9000,
    "modeling_own.py": b"raise SystemExit",
    "tokenizer.model": b"s" * 9000,
    "tekken.json": b"{}",
    "runs/events": b"e",
}


def fetched(name):
    """Files of a source by their names, and its commit."""
    fetched = fetch(name)
    directory, commit = fetched.directory, fetched.revision
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*")}, commit


def said(name, kind=SourceError):
    """The one line of a refusal."""
    with pytest.raises(kind) as caught:
        fetch(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("files", [WHOLE, SHARDED], ids=["whole", "in parts"])
def test_configuration_texts_and_one_set_of_weights_come_and_no_copy_of_them(files, hub):
    commit = hub.add("me/model", files | COPIES)
    assert fetched("me/model") == (files, commit)
    assert sorted(hub.downloads()) == sorted(files)


def test_weights_in_bin_files_come_where_there_are_no_others(hub):
    index = INDEX.replace(b"safetensors", b"bin")
    shards = {name.replace("safetensors", "bin"): content for name, content in SHARDS.items()}
    files = TEXTS | shards | {"pytorch_model.bin.index.json": index}
    hub.add("me/model", files)
    assert fetched("me/model")[0] == files


def test_what_a_tokenizer_is_made_from_comes_where_there_is_none(hub):
    files = {name: content for name, content in WHOLE.items() if name != "tokenizer.json"}
    hub.add("me/model", files | {"tokenizer.model": b"s"})
    assert "tokenizer.model" in fetched("me/model")[0]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub):
    first = hub.add("me/model", WHOLE)
    second = hub.repositories["me/model"].commit(WHOLE | {"config.json": b'{"a": 1}'}, "v2")
    assert fetch("me/model").revision == first
    assert fetch("me/model@v2").revision == second
    assert fetch(f"me/model@{second}").revision == second


def test_a_second_time_nothing_is_fetched_again(hub):
    hub.add("me/model", SHARDED)
    fetch("me/model")
    hub.requests.clear()
    fetch("me/model")
    assert hub.downloads() == []


@pytest.mark.parametrize("name", ["me/model", "me/model@main"])
def test_without_a_connection_the_copy_in_the_cache_is_taken(name, hub):
    commit = hub.add("me/model", SHARDED)
    directory = fetch(name).directory
    hub.close()
    fetched = fetch(name)
    assert (fetched.directory, fetched.revision) == (directory, commit)
    assert fetched.notes == (f"the hub was not asked for {name}: the copy in the cache is of {commit}",)


def test_offline_the_copy_in_the_cache_is_taken_without_a_request(hub, monkeypatch):
    from huggingface_hub import constants

    commit = hub.add("me/model", WHOLE)
    fetch("me/model")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("me/model").revision == commit
    assert hub.requests == []


def test_without_a_connection_and_a_copy_the_line_says_both(hub):
    hub.close()
    line = said("me/model", UnavailableError)
    assert hub.endpoint in line
    assert "cache" in line


@pytest.mark.parametrize("gone", ["config.json", "model-00002-of-00002.safetensors"])
def test_a_copy_that_lacks_something_is_not_taken(gone, hub):
    hub.add("me/model", SHARDED)
    directory = fetch("me/model").directory
    (directory / gone).resolve().unlink()
    hub.close()
    assert "lacks" in said("me/model", UnavailableError)


def test_a_download_that_breaks_off_is_no_copy(hub):
    hub.add("me/model", SHARDED)
    hub.fail = lambda request: 403 if request.endswith("/model-00002-of-00002.safetensors") else None
    with pytest.raises(DovetailError):
        fetch("me/model")
    hub.close()
    assert "not in the cache" in said("me/model", UnavailableError)


@pytest.mark.parametrize(("token", "status"), [("", "401"), ("hf_guest", "403")])
def test_a_gated_model_names_where_to_ask_and_how_to_log_in(token, status, hub, monkeypatch):
    hub.add("me/model", WHOLE, gated=True)
    monkeypatch.setenv("HF_TOKEN", token)
    line = said("me/model")
    assert status in line
    assert f"{hub.endpoint}/me/model" in line
    assert "`hf auth login`" in line
    assert "HF_TOKEN" in line
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    assert fetched("me/model")[0] == WHOLE


@pytest.mark.parametrize("token", ["", "hf_guest", "hf_unknown"])
def test_a_private_model_names_the_login(token, hub, monkeypatch):
    hub.add("me/model", WHOLE, private=True)
    monkeypatch.setenv("HF_TOKEN", token)
    assert "`hf auth login`" in said("me/model")


def test_a_model_or_revision_that_is_not_there_is_named(hub):
    hub.add("me/model", WHOLE)
    assert "me/other" in said("me/other")
    assert "'v9'" in said("me/model@v9")


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "me/model@", "me/model@../x"])
def test_what_is_no_name_is_refused_without_a_request(name, hub):
    assert repr(name) in said(name)
    assert hub.requests == []


def test_parts_that_are_not_there_are_named_before_any_weight_comes(hub):
    hub.add("me/model", {name: content for name, content in SHARDED.items() if "00002-of" not in name})
    assert "model-00002-of-00002.safetensors" in said("me/model")
    assert not [name for name in hub.downloads() if name.endswith("safetensors")]


@pytest.mark.parametrize("index", [b"{", b"[]", b"{}", b'{"weight_map": 1}', b"\xff"])
def test_an_index_that_is_none_is_a_source_error(index, hub):
    hub.add("me/model", SHARDED | {"model.safetensors.index.json": index})
    assert "model.safetensors.index.json" in said("me/model")


def test_a_repository_of_gguf_files_names_the_download(hub):
    hub.add("me/model", {"README.md": b"", "config.json": b"{}", "model-Q8_0.gguf": b"g" * 9000})
    assert "hf download me/model model-Q8_0.gguf" in said("me/model")
    assert hub.downloads() == []


def test_a_bundle_names_pull(hub):
    hub.add("me/model", {"manifest.json": b"{}", "model.onnx": b"o", "tokenizer.json": b"{}"})
    assert "dovetail-ort pull me/model" in said("me/model")
    assert hub.downloads() == []


def test_an_adapter_comes_without_weights_for_the_diagnosis(hub):
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a" * 9000}
    hub.add("me/model", files)
    assert set(fetched("me/model")[0]) == {"adapter_config.json"}
