"""Where calibration text comes from, and which files are refused."""

import os

import numpy as np
import pytest

from dovetail_ort_runtime.errors import InputError


@pytest.fixture(scope="module")
def source(tiny_llama, torch):
    from dovetail_ort_export.source import load_source

    return load_source(str(tiny_llama))


@pytest.fixture
def texts(source):
    """`texts(path, num_tokens, seed)` of the tiny Llama."""
    from dovetail_ort_export.calibration import calibration_texts

    return lambda path=None, num_tokens=300, seed=0: calibration_texts(source, path, num_tokens, seed)


def test_the_model_writes_as_many_tokens_as_are_asked_for(texts):
    assert sum(map(len, texts(num_tokens=777))) == 777


def test_the_same_seed_gives_the_same_text_and_another_one_another(texts, torch):
    state = torch.random.get_rng_state()
    first, again, other = texts(seed=3), texts(seed=3), texts(seed=4)
    assert [list(text) for text in first] == [list(text) for text in again]
    assert [list(text) for text in first] != [list(text) for text in other]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_it_writes_is_a_conversation_in_its_own_template(texts, source):
    opening = source.text.tokenizer.encode("<|im_start|>user\n", add_special_tokens=False).ids
    answer = source.text.tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).ids
    for text in texts(num_tokens=2000)[:-1]:
        ids = list(text)
        assert ids[: len(opening)] == opening
        assert any(ids[start : start + len(answer)] == answer for start in range(len(ids)))


def test_a_model_without_a_template_continues_the_empty_text(source):
    from dataclasses import replace

    from dovetail_ort_export.calibration import calibration_texts

    without = replace(source.checkpoint, text=replace(source.text, chat_template=None))
    written = calibration_texts(replace(source, checkpoint=without), None, 300, 0)
    assert {int(text[0]) for text in written} == {0}  # <|endoftext|>, its bos token
    assert sum(map(len, written)) == 300


def test_a_file_is_read_from_its_beginning_in_pieces_that_fit_the_model(texts, source, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Tails hold the pins without a nail. " * 200)
    ids = source.text.tokenizer.encode(path.read_text(), add_special_tokens=False).ids
    found = texts(path, 1100)
    assert [len(text) for text in found] == [512, 512, 76]
    np.testing.assert_array_equal(np.concatenate(found), ids[:1100])


def test_a_file_shorter_than_asked_for_is_read_to_its_end(texts, source, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Tails hold the pins. " * 20)
    ids = source.text.tokenizer.encode(path.read_text(), add_special_tokens=False).ids
    assert 64 <= len(ids) < 1000
    assert sum(map(len, texts(path, 1000))) == len(ids)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have 64 tokens or more, got 0 in"),
        (b"too short", "must have 64 tokens or more, got"),
        (b"\xff\xfe\x00", "must be a readable UTF-8 file, got: 'utf-8' codec"),
        (b"text\0" * 100, "must be text, got NUL characters in"),
    ],
)
def test_a_file_that_is_no_text_or_too_short_is_refused(texts, tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        texts(path)


def test_a_file_that_is_too_large_is_refused_unread(texts, tmp_path):
    path = tmp_path / "mine.txt"
    path.touch()
    os.truncate(path, 65 << 20)
    with pytest.raises(InputError, match=r"must have 64 MB at most, got 65 MB in .*; a part of it is enough"):
        texts(path)


def test_a_file_that_is_not_there_is_refused(texts, tmp_path):
    with pytest.raises(InputError, match=r"must be a readable UTF-8 file, got: .*No such file"):
        texts(tmp_path / "nowhere.txt")


def test_a_refused_file_leaves_no_bundle(tiny_llama, tmp_path):
    from dovetail_ort_export import ExportOptions, export_bundle

    path = tmp_path / "mine.txt"
    path.write_text("too short")
    with pytest.raises(InputError, match="64 tokens or more"):
        export_bundle(str(tiny_llama), tmp_path / "out" / "bundle", ExportOptions(calibration_text=path))
    assert list((tmp_path / "out").iterdir()) == []
