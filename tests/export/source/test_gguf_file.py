"""A GGUF file is opened whole, in all its parts, or refused in one line that says what it is."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from dovetail_ort_export.source.gguf_checkpoint import read_gguf
from dovetail_ort_export.source.gguf_file import open_gguf
from dovetail_ort_runtime.errors import SourceError


@pytest.fixture
def in_parts(tmp_path, tiny_model, metadata_of, tensors_of, write_gguf):
    """`in_parts(count, name)`: paths of the parts of one tiny Llama, and the model."""

    def make(count=3, name="tiny"):
        model = tiny_model("llama")
        tensors = list(tensors_of(model, "llama").items())
        metadata = metadata_of(model, "llama", {})
        paths = []
        for number in range(count):
            fields = metadata if number == 0 else {"general.architecture": "llama"}
            split = {"split.no": number, "split.count": count, "split.tensors.count": len(tensors)}
            path = tmp_path / f"{name}-{number + 1:05}-of-{count:05}.gguf"
            paths.append(write_gguf(path, {**fields, **split}, dict(tensors[number::count])))
        return paths, model

    return make


def test_the_parts_of_a_model_come_to_all_its_weights(in_parts, torch):
    paths, model = in_parts()
    tensors = read_gguf(paths[0]).tensors
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensor.read(), state[name]) for name, tensor in tensors.items())


def test_a_missing_part_is_named(in_parts):
    paths, _ = in_parts()
    paths[1].unlink()
    with pytest.raises(SourceError, match=r"got none called tiny-00002-of-00003\.gguf"):
        open_gguf(paths[0])


def test_a_later_part_names_the_first(in_parts):
    paths, _ = in_parts()
    with pytest.raises(SourceError, match=r"is part 2 of 3; give the first, tiny-00001-of-00003\.gguf"):
        open_gguf(paths[1])


def test_a_part_without_the_name_of_one_is_refused(in_parts, tmp_path):
    paths, _ = in_parts()
    with pytest.raises(SourceError, match=r"NAME-00001-of-00003\.gguf, got model\.gguf"):
        open_gguf(paths[0].rename(tmp_path / "model.gguf"))


def test_a_part_of_another_model_is_refused(in_parts):
    paths, _ = in_parts()
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(SourceError, match=r"tiny-00003-of-00003\.gguf must be part 3 of 3"):
        open_gguf(paths[0])


def test_parts_that_hold_too_few_tensors_are_refused(in_parts, write_gguf):
    paths, _ = in_parts()
    split = {"general.architecture": "llama", "split.no": 2, "split.count": 3, "split.tensors.count": 20}
    write_gguf(paths[2], split, {"blk.0.attn_norm.weight": np.ones(64, np.float32)})
    with pytest.raises(SourceError, match=r"blk\.0\.attn_norm\.weight twice|must hold 20 tensors"):
        open_gguf(paths[0])


def test_a_model_in_parts_is_named_without_their_number(in_parts, write_gguf, tiny_model, metadata_of, tensors_of):
    paths, _ = in_parts(count=1, name="smol-Q8")
    model = tiny_model("llama")
    fields = {**metadata_of(model, "llama", {}), "general.name": ""}
    write_gguf(paths[0], fields, tensors_of(model, "llama"))
    assert read_gguf(paths[0]).name == "smol-Q8"


def test_an_upper_case_suffix_is_read(gguf_of, in_parts):
    path, _ = gguf_of()
    assert read_gguf(path.rename(path.with_suffix(".GGUF"))).name == "tiny"
    paths, _ = in_parts(count=2)
    upper = [part.rename(part.with_suffix(".GGUF")) for part in paths]
    assert len(read_gguf(upper[0]).tensors) == 20


def test_a_file_that_ends_early_is_refused_wherever_it_ends(gguf_of):
    path, _ = gguf_of()
    whole = path.read_bytes()
    for length in (0, 3, 8, 23, 24, 200, 4_000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError) as caught:
            open_gguf(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Not a model, but a page that asks to log in.", r"must begin with b'GGUF', got b'Not '"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"tjgg" + bytes(60), "older than GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version must be 2 or 3, got 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version must be 2 or 3, got 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + bytes(100), "version must be 2 or 3, got 0"),
        (b"GGUF" + struct.pack("<IQQ", 3, 5, 5) + b"\xff" * 90, "ends early or is damaged"),
    ],
)
def test_what_is_no_such_file_is_reported_in_a_line(tmp_path, content, reason):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=reason):
        open_gguf(path)


def test_a_file_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(SourceError, match="which is not there"):
        open_gguf(tmp_path / "none.gguf")


def test_text_that_is_not_utf_8_is_refused_with_its_key(gguf_of):
    path, _ = gguf_of(more={"general.author": "Zo\u00eb Xyz"})
    path.write_bytes(path.read_bytes().replace("\u00eb Xyz".encode(), b"\xff\xff Xyz"))
    with pytest.raises(SourceError, match=r"text of general\.author must be UTF-8"):
        open_gguf(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", "two"),
        ("llama.rope.freq_base", "high"),
        ("llama.rope.scaling.type", 3),
        ("llama.attention.key_length", [16, 16]),
        ("tokenizer.ggml.tokens", [1, 2]),
        ("tokenizer.ggml.merges", "a b"),
        ("tokenizer.ggml.token_type", ["normal"]),
        ("tokenizer.ggml.eos_token_id", "</s>"),
        ("tokenizer.ggml.model", 1),
        ("tokenizer.ggml.pre", 1),
        ("tokenizer.chat_template", 1),
        ("split.count", "two"),
        ("general.type", 1),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_key(gguf_of, key, value):
    path, _ = gguf_of(more={key: value})
    with pytest.raises(SourceError, match=key.replace(".", r"\.")):
        read_gguf(path)
