import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.tokenizer import Tokenizer

SENTENCES = ["The cat sat on the mat.", "A dove's tail is a joint: 12 pins, 34 tails.", "Überall gibt es Käse für 3 €."]
BEGIN, END = "<|begin|>", "<|end|>"


@pytest.fixture
def fast_tokenizer():
    """A byte-level BPE of 400 ids, trained here, with two special tokens."""
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(SENTENCES, trainer)
    fast.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return fast


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenizer.json"


@pytest.fixture
def tokenizer(fast_tokenizer, path):
    fast_tokenizer.save(str(path))
    return Tokenizer(path)


@pytest.mark.parametrize("text", ["", "the cat", " two  spaces ", "naïve 日本語 🕊️\n\t", "it's 12,345.6 €"])
def test_decode_inverts_encode(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_special_tokens_are_added_only_on_request(tokenizer):
    plain = tokenizer.encode("the cat", add_special_tokens=False)
    assert tokenizer.encode("the cat", add_special_tokens=True) == [0, *plain]


def test_a_special_token_in_the_text_is_one_id(tokenizer):
    assert tokenizer.encode(f"{BEGIN}{END}", add_special_tokens=False) == [0, 1]


def test_decode_skips_special_tokens_unless_asked(tokenizer):
    ids = tokenizer.encode(f"cat{END}", add_special_tokens=False)
    assert tokenizer.decode(ids) == "cat"
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"cat{END}"


def test_decode_takes_an_array(tokenizer):
    ids = tokenizer.encode("the cat", add_special_tokens=False)
    assert tokenizer.decode(np.array(ids, dtype=np.int64)) == "the cat"
    assert tokenizer.decode(np.zeros(0, dtype=np.int64)) == ""


def test_padded_ids_beyond_the_vocabulary_decode_to_nothing(tokenizer):
    assert tokenizer.id_to_token(tokenizer.vocabulary_size) is None
    assert tokenizer.decode([tokenizer.vocabulary_size, 10**6]) == ""


def test_vocabulary_size_is_one_more_than_the_highest_id(fast_tokenizer, path):
    fast_tokenizer.save(str(path))
    contents = json.loads(path.read_text(encoding="utf-8"))
    contents["model"]["vocab"]["far"] = 500
    path.write_text(json.dumps(contents), encoding="utf-8")
    tokenizer = Tokenizer(path)
    assert tokenizer.token_to_id("far") == 500
    assert tokenizer.vocabulary_size == 501


def test_tokens_and_ids_map_to_each_other(tokenizer):
    assert tokenizer.token_to_id(END) == 1
    assert tokenizer.id_to_token(1) == END
    assert tokenizer.token_to_id("no such token") is None


def test_special_token_ids_are_those_that_decode_skips(tokenizer):
    skipped = {i for i in range(tokenizer.vocabulary_size) if tokenizer.decode([i]) == ""}
    assert tokenizer.special_token_ids == skipped == {0, 1}


def test_a_prompt_is_neither_cut_nor_padded_by_settings_in_the_file(fast_tokenizer, path):
    fast_tokenizer.enable_truncation(3)
    fast_tokenizer.enable_padding(length=50)
    fast_tokenizer.save(str(path))
    tokenizer = Tokenizer(path)
    text = "The cat sat on the mat. The cat sat on the mat."
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}'])
def test_a_damaged_file_is_one_line_that_names_it(path, contents):
    path.write_bytes(contents)
    with pytest.raises(BundleError) as caught:
        Tokenizer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line_that_names_it(path):
    with pytest.raises(BundleError, match=r"got no file .*tokenizer\.json; export the model again$"):
        Tokenizer(path)


def test_a_lone_surrogate_is_an_input_error(tokenizer):
    with pytest.raises(InputError, match=r"without lone surrogates, got 'a\\udcff'"):
        tokenizer.encode("a\udcff", add_special_tokens=False)
