"""A stream of tokens gives the text that decoding them all at once gives."""

from __future__ import annotations

import bisect
import functools
import itertools
import tempfile
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from dovetail_ort_runtime.text.text_stream import TextStream, TokenOffsets
from dovetail_ort_runtime.text.tokenizer import Tokenizer

TEXT = "naïve €5 日本語 👩‍🚀 and back"
PIECES = ["▁", "▁▁", "▁the", "cat", "s▁", "é", "\ufffd", "日本"]
BYTE_FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]


def loaded(fast):
    fast.add_special_tokens(["<|begin|>", "<|end|>"])
    fast.add_tokens([AddedToken("<think>", special=False)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        fast.save(str(path))
        return Tokenizer(path)


def with_vocabulary(tokens, merges=(), **options):
    return tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges), **options))


@functools.cache
def byte_level():
    """Every byte, and tokens that end or start inside a character: E2 82, 82 AC, F0 9F 91, A9 20."""
    byte = dict(zip(range(256), byte_characters(), strict=True))
    merges = [(byte[0xE2], byte[0x82]), (byte[0x82], byte[0xAC]), (byte[0x9F], byte[0x91]), (byte[0xA9], byte[0x20])]
    merges.append((byte[0xF0], byte[0x9F] + byte[0x91]))
    fast = with_vocabulary([*byte.values(), *(left + right for left, right in merges)], merges)
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return loaded(fast)


def byte_characters():
    """GPT-2's spelling of the bytes 0 to 255: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@functools.cache
def metaspace():
    """SentencePiece with byte fallback, its decoder written out as Llama 2's."""
    fast = with_vocabulary(["<unk>", *PIECES, *BYTE_FALLBACK], byte_fallback=True, unk_token="<unk>")
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    replace = decoders.Replace("▁", " ")
    fast.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return loaded(fast)


@functools.cache
def plain_metaspace():
    """The Metaspace decoder alone, to which `<0xE2>` is text."""
    fast = with_vocabulary(["<unk>", *PIECES, *BYTE_FALLBACK], unk_token="<unk>")
    fast.decoder = decoders.Metaspace()
    return loaded(fast)


@functools.cache
def word_piece():
    """BERT's pieces, which no list of known decoders needs to name."""
    fast = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "cat": 1, "##s": 2, "é": 3, "日": 4}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.decoder = decoders.WordPiece(cleanup=False)
    return loaded(fast)


TOKENIZERS = [byte_level, metaspace, plain_metaspace]


def streamed(tokenizer, ids, **options):
    stream = TextStream(tokenizer, **options)
    return [*(stream.push(token_id) for token_id in ids), stream.finish()]


def ids_of(text):
    return byte_level().encode(text, add_special_tokens=False)


# Three more than there are: ids without a token, as padded vocabularies have.
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("make", TOKENIZERS)
@settings(deadline=None)  # the first example also builds the tokenizer
@given(data=st.data())
def test_pushes_and_finish_equal_decoding_all_ids(make, skip, data):
    tokenizer = make()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size + 2), max_size=40))
    assert "".join(streamed(tokenizer, ids, skip_special_tokens=skip)) == tokenizer.decode(ids, skip)


# Few ids, and those that meet at the seams: spaces, parts of characters, invalid bytes, special tokens.
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("make", TOKENIZERS)
@settings(deadline=None)
@given(data=st.data())
def test_pushes_and_finish_equal_decoding_all_ids_at_the_seams(make, skip, data):
    tokenizer = make()
    ids = data.draw(seams(tokenizer))
    assert "".join(streamed(tokenizer, ids, skip_special_tokens=skip)) == tokenizer.decode(ids, skip)


def seams(tokenizer):
    spelled = [byte_characters()[byte] for byte in b" a\x80\x82\xac\xe2\xf0\x9f\x91\xa9\xff"]
    spelled += ["<0x20>", "<0x61>", "<0x80>", "<0xE2>", "<0x82>", "<0xAC>", *PIECES, "<|end|>", "<think>"]
    found = [token_id for token in spelled if (token_id := tokenizer.token_to_id(token)) is not None]
    return st.lists(st.sampled_from(found), max_size=30)


@given(st.text(max_size=30))
@example(TEXT)
def test_valid_text_never_shows_a_replacement_character(text):
    pushed = streamed(byte_level(), ids_of(text))
    assert "".join(pushed) == text
    assert not any("\ufffd" in piece for piece in pushed) or "\ufffd" in text


def test_a_character_is_pushed_with_its_last_byte():
    assert streamed(byte_level(), ids_of("a€b")) == ["a", "", "€", "b", ""]


def test_an_incomplete_character_at_the_end_is_flushed_as_a_replacement_character():
    assert streamed(byte_level(), ids_of("a€")[:-1]) == ["a", "", "\ufffd"]


def test_the_first_space_is_dropped_only_at_the_start_of_the_text():
    the = metaspace().token_to_id("▁the")
    assert streamed(metaspace(), [the] * 7) == ["the", *[" the"] * 6, ""]


def test_a_run_of_fallback_bytes_is_pushed_when_it_ends():
    tokenizer = metaspace()
    run = [tokenizer.token_to_id(token) for token in ("<0xE2>", "<0x82>", "<0xAC>", "cat")]
    assert streamed(tokenizer, run) == ["", "", "", "€cat", ""]


def test_special_tokens_are_skipped_and_added_ones_kept():
    tokenizer = byte_level()
    ids = tokenizer.encode("<|begin|>a<think>b<|end|>", add_special_tokens=False)
    assert streamed(tokenizer, ids) == ["", "a", "<think>", "b", "", ""]


def test_special_tokens_are_shown_where_they_are_not_skipped():
    tokenizer = byte_level()
    ids = tokenizer.encode("<|begin|>a<think>b<|end|>", add_special_tokens=False)
    pushed = streamed(tokenizer, ids, skip_special_tokens=False)
    assert pushed == ["<|begin|>", "a", "<think>", "b", "<|end|>", ""]


# What offsets are compared with has no bytes that are no text: there is no other way to tell which one they are of.
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("make", [byte_level, metaspace, plain_metaspace, word_piece])
@given(text=st.lists(st.sampled_from([*"a€日é👩 ", " the", "cats", "<|end|>", "<think>", "\ufffd"]), max_size=20))
def test_a_token_starts_where_the_character_of_its_first_byte_does(make, skip, text):
    tokenizer = make()
    ids = tokenizer.encode("".join(text), add_special_tokens=False)
    decoded = tokenizer.decode(ids, skip)
    special = tokenizer.special_token_ids if skip else ()
    written = [b"" if token_id in special else tokenizer.token_bytes(token_id) for token_id in ids]
    dropped = len(b"".join(written)) - len(decoded.encode())  # spaces at the start
    assert b"".join(written)[dropped:].decode() == decoded
    ends = list(itertools.accumulate(len(character.encode()) for character in decoded))
    starts = [max(start - dropped, 0) for start in itertools.accumulate(map(len, written[:-1]), initial=0)]
    offsets = TokenOffsets(tokenizer, skip_special_tokens=skip)
    assert [offsets.push(token_id) for token_id in ids] == [bisect.bisect(ends, start) for start in starts][: len(ids)]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("make", "after"), [(byte_level, "a"), (metaspace, "cat"), (plain_metaspace, "cat")])
@given(data=st.data())
def test_bytes_that_are_no_text_move_no_offset_after_them(make, after, skip, data):
    tokenizer = make()
    ids = data.draw(seams(tokenizer))
    last = tokenizer.token_to_id(after)
    offsets = TokenOffsets(tokenizer, skip_special_tokens=skip)
    for token_id in ids:
        offsets.push(token_id)
    assert offsets.push(last) == len(tokenizer.decode([*ids, last], skip)) - len(after)


def test_tokens_of_one_character_start_with_it():
    offsets = TokenOffsets(byte_level())
    assert [offsets.push(token_id) for token_id in ids_of("a😀€b")] == [0, 1, 1, 1, 1, 2, 2, 3]


def test_a_finished_stream_starts_anew():
    the = metaspace().token_to_id("▁the")
    stream = TextStream(metaspace())
    assert [stream.push(the), stream.push(the), stream.finish()] == ["the", " the", ""]
    assert stream.push(the) == "the"


@pytest.mark.parametrize("text", ["a", "€", "\udcff"])
def test_no_push_decodes_more_than_five_ids(text, monkeypatch):
    lengths = []
    decode = Tokenizer.decode

    def counted(self, ids, skip_special_tokens=True):
        lengths.append(len(ids))
        return decode(self, ids, skip_special_tokens)

    monkeypatch.setattr(Tokenizer, "decode", counted)
    characters = byte_characters()
    ids = [byte_level().token_to_id(characters[byte]) for byte in text.encode(errors="surrogateescape")] * 200
    streamed(byte_level(), ids)
    assert max(lengths) <= 5
