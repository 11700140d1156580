"""Pieces of an answer over tokenizers that hold text back, and the strings and tokens that end it."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from dovetail_ort_runtime.decoding.answer_stream import AnswerStream
from dovetail_ort_runtime.text.tokenizer import Tokenizer

BEGIN, END, NOTE = "<|begin|>", "<|end|>", "<note>"


def loaded(fast):
    fast.add_special_tokens([BEGIN, END])
    fast.add_tokens([tokenizers.AddedToken(NOTE, special=False)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        fast.save(str(path))
        return Tokenizer(path)


def byte_level():
    """A token for every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = tokenizers.Tokenizer(models.BPE({token: place for place, token in enumerate(alphabet)}, []))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return loaded(fast)


def byte_fallback():
    """Llama 2's decoder over two letters, a word with its space, and bytes, which are held back until a run ends."""
    pieces = ["a", "b", "▁the", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: place for place, token in enumerate(pieces)}
    fast = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, ignore_merges=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    fast.decoder = decoders.Sequence(steps)
    return loaded(fast)


BYTE_LEVEL, BYTE_FALLBACK = byte_level(), byte_fallback()
KINDS = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte_level", "byte_fallback"])


def answered(tokenizer, ids, *, stop=(), skip=True, eos=()):
    """Pieces of an answer that may go on to the last of `ids`."""
    accounts = {"prompt_tokens": 1, "cached_tokens": 0, "started": 0.0, "read_started": 0.0}
    answer = AnswerStream(tokenizer, eos_token_ids=eos, stop=stop, skip_special_tokens=skip, **accounts)
    pieces = []
    for token_id in ids:
        pieces += answer.pieces((token_id,), (None,), len(ids))
        if answer.finished:
            break
    return pieces


PARTS = st.lists(st.sampled_from(["a", "b", "€", BEGIN, END, NOTE]), min_size=1, max_size=8)
STOPS = [END, f"a{END}", f"{END}b", f"€{END}", BEGIN + END, "d|>", "ab", "a", "€", "x", f"{NOTE}{END}"]


@KINDS
@pytest.mark.parametrize("skip", [True, False])
@given(parts=PARTS, stop=st.sampled_from(STOPS))
@example(parts=["€", END, "b"], stop=f"€{END}")
@example(parts=["a", "€", END, "b"], stop=END)
def test_an_answer_ends_before_its_stop_string_as_special_tokens_are_spelt(tokenizer, skip, parts, stop):
    text = "".join(parts)
    ids = tokenizer.encode(text, add_special_tokens=False)
    last = answered(tokenizer, ids, stop=(stop,), skip=skip)[-1].generation
    # An answer may wait with a decision while bytes may still change, but for a special token.
    complete = next((n for n in range(len(ids)) if stop in tokenizer.decode(ids[:n], False)), len(ids))
    before = text[: text.find(stop)] if stop in text else text
    hidden = list(itertools.chain.from_iterable([skip and part in (BEGIN, END)] * len(part) for part in parts))
    assert last.text == "".join(character for character, drop in zip(before, hidden, strict=False) if not drop)
    assert last.finish_reason == ("stop" if stop in text else "length")
    if stop.endswith(("|>", "a", "b")):
        assert len(last.token_ids) == complete


@KINDS
@pytest.mark.parametrize("skip", [True, False])
@given(data=st.data())
def test_pieces_put_together_are_the_decoded_answer(tokenizer, skip, data):
    special = [tokenizer.token_to_id(token) for token in (BEGIN, END, NOTE)]
    token_id = st.one_of(st.integers(0, tokenizer.vocabulary_size - 1), st.sampled_from(special))
    ids = data.draw(st.lists(token_id, min_size=1, max_size=20))
    eos = data.draw(st.sampled_from([(), (special[1],)]))
    pieces = answered(tokenizer, ids, skip=skip, eos=eos)
    last = pieces[-1].generation
    assert "".join(piece.text for piece in pieces) == last.text == tokenizer.decode(last.token_ids, skip)


@KINDS
def test_the_text_before_an_end_token_is_searched_with_it(tokenizer):
    ids = tokenizer.encode(f"ab€{END}", add_special_tokens=False)
    last = answered(tokenizer, ids, stop=(f"b€{END}",), eos=ids[-1:])[-1].generation
    assert (last.text, last.finish_reason) == ("a", "stop")


@KINDS
def test_an_end_token_that_is_no_special_token_is_left_out_or_shown(tokenizer):
    ids = tokenizer.encode(f"ab{NOTE}", add_special_tokens=False)
    texts = [answered(tokenizer, ids, skip=skip, eos=ids[-1:])[-1].generation.text for skip in (True, False)]
    assert texts == ["ab", f"ab{NOTE}"]


def test_a_space_after_a_skipped_token_stays():
    ids = [BYTE_FALLBACK.token_to_id(token) for token in ("a", END, "▁the", END, "▁the")]
    assert [piece.text for piece in answered(BYTE_FALLBACK, ids, stop=("x",))] == ["a", "", " the", "", " the"]


@KINDS
def test_what_a_special_token_may_complete_is_held_back(tokenizer):
    ids = tokenizer.encode(f"ab{BEGIN}b{END}a", add_special_tokens=False)
    pieces = answered(tokenizer, ids, stop=(f"b{END}",))
    assert [piece.text for piece in pieces] == ["a", "", "b", "", ""]
