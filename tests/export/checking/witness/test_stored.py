"""Weights in files: which are read, how much at a time, and what is refused."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dovetail_ort_export.checking import witness
from dovetail_ort_export.checking.witness.directory import read_tensors
from dovetail_ort_export.checking.witness.stored import StoredRows, Weights
from dovetail_ort_runtime.errors import SourceError


class CountingReader:
    """Counts the bytes that were read and are still alive."""

    def __init__(self):
        self.alive = 0
        self.most = 0
        self.rows = {}

    def watch(self, name, stored):
        def read(start, stop):
            rows = stored.read(start, stop).clone()
            self.alive += rows.nbytes
            self.most = max(self.most, self.alive)
            self.rows.setdefault(name, []).append((start, stop))
            weakref.finalize(rows, self._forget, rows.nbytes)
            return rows

        return StoredRows(shape=stored.shape, read=read)

    def _forget(self, size):
        self.alive -= size


@pytest.fixture
def counted(monkeypatch, torch):
    """`CountingReader` of all that the witness reads of a directory, with float64 files in mind: no second copy."""
    reader = CountingReader()

    def read(directory):
        return {name: reader.watch(name, stored) for name, stored in read_tensors(directory).items()}

    monkeypatch.setattr(witness, "read_tensors", read)
    return reader


def test_one_matrix_is_in_memory_at_a_time(counted, tiny_source, text, torch):
    source = tiny_source("llama", dtype=torch.float64, num_hidden_layers=4, tie_word_embeddings=False)
    witness.testify(source, text.token_ids, text.far, max_context=512)
    head = 384 * 64 * 8
    assert counted.most <= head  # the largest matrix of all; a block has 37,000 numbers, over 4 of them together
    assert counted.alive == 0


def test_the_head_is_read_in_slices_and_the_embedding_by_rows(counted, tiny_source, text, monkeypatch):
    monkeypatch.setattr(witness.stored, "_HEAD_ROWS", 100)
    source = tiny_source("llama", tie_word_embeddings=False)
    witness.testify(source, text.token_ids, text.far, max_context=512)
    assert counted.rows["lm_head.weight"] == [(0, 100), (100, 200), (200, 300), (300, 384)]
    assert counted.rows["model.embed_tokens.weight"] == [(token, token + 1) for token in text.token_ids]


def test_every_weight_is_read_once(counted, tiny_source, text):
    source = tiny_source("qwen3", attention_bias=True, tie_word_embeddings=False)
    witness.testify(source, text.token_ids, text.far, max_context=512)
    stored = load_file(source / "model.safetensors")
    assert set(counted.rows) == set(stored)
    embedding = counted.rows.pop("model.embed_tokens.weight")
    assert len(embedding) == len(text.token_ids)
    assert all(reads == [(0, len(stored[name]))] for name, reads in counted.rows.items())


def test_large_models_are_computed_in_float32(tiny_llama, text, monkeypatch, distance):
    exact = witness.testify(tiny_llama, text.token_ids, text.far, max_context=512)
    monkeypatch.setattr(witness, "_MOST_IN_FLOAT64", exact.num_parameters - 1)
    found = witness.testify(tiny_llama, text.token_ids, text.far, max_context=512)
    assert found.logits.dtype == np.float32
    assert distance(found.logits, exact.logits) < 1e-5  # float32's 6e-8 through two blocks


@pytest.mark.parametrize("kind", ["sharded safetensors", "one .bin", "sharded .bin"])
def test_each_way_to_store_weights_is_read(kind, tiny_source, text, torch):
    source = tiny_source("qwen2")
    expected = witness.testify(source, text.token_ids, text.far, max_context=512).logits
    stored = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    name = "model.safetensors" if "safetensors" in kind else "pytorch_model.bin"
    save = save_file if "safetensors" in kind else torch.save
    parts = [f"part-{part}-{name}" for part in range(2 if "sharded" in kind else 1)]
    places = {tensor: parts[index % len(parts)] for index, tensor in enumerate(stored)}
    for part in parts:
        save({tensor: stored[tensor] for tensor in stored if places[tensor] == part}, source / part)
    if len(parts) == 1:
        (source / parts[0]).rename(source / name)
    else:
        (source / f"{name}.index.json").write_text(json.dumps({"weight_map": places}))
    np.testing.assert_array_equal(witness.testify(source, text.token_ids, text.far, max_context=512).logits, expected)


def test_a_pickle_that_runs_code_is_refused(tiny_source, text, torch, tmp_path):
    class Intruder:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    source = tiny_source("llama")
    (source / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Intruder()}, source / "pytorch_model.bin")
    with pytest.raises(SourceError, match="cannot be read as a file of plain tensors"):
        witness.testify(source, text.token_ids, text.far, max_context=512)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1", "cannot be read as a safetensors file"),
        ("model.safetensors", None, "has neither model.safetensors nor pytorch_model.bin"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"[]", "must hold a JSON object, got list"),
        ("config.json", None, "cannot be read as JSON"),
    ],
)
def test_a_damaged_directory_is_refused_in_one_line(name, content, message, tiny_source, text):
    source = tiny_source("llama")
    (source / name).unlink()
    if content is not None:
        (source / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        witness.testify(source, text.token_ids, text.far, max_context=512)
    assert "\n" not in str(caught.value)


def test_quantised_numbers_are_refused(torch):
    stored = StoredRows(shape=(2, 2), read=lambda start, stop: torch.zeros(2, 2, dtype=torch.int8))
    weights = Weights(tensors={"layer.weight": stored}, dtype=torch.float64)
    with pytest.raises(SourceError, match=r"layer.weight must hold plain numbers, got torch.int8"):
        weights.project("layer", torch.zeros(1, 2, dtype=torch.float64), 2)
