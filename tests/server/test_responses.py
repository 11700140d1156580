"""Log-probabilities of an answer's tokens: what each wrote, where, and what else it might have been."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Saved
from tokenizers import decoders, models

from dovetail_ort.server.responses import ChatWriter, CompletionWriter
from dovetail_ort_runtime.results import TokenLogprobs
from dovetail_ort_runtime.text.tokenizer import Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["<s>", "▁The", "▁pins", "▁", "a", "s", "€"]


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory):
    """What a writer asks of a model whose tokens carry the space before a word, as Llama 2's do."""
    vocabulary = {token: place for place, token in enumerate(WORDS + BYTES)}
    made = Saved(models.BPE(vocabulary, [], byte_fallback=True))
    made.add_special_tokens(["<s>"])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.json"
    made.save(str(path))
    generation = SimpleNamespace(eos_token_ids=())
    return SimpleNamespace(tokenizer=Tokenizer(path), manifest=SimpleNamespace(generation=generation))


def logprobs(kind, model, token_ids, top=()):
    tokens = [TokenLogprobs(token_id=token_id, logprob=-0.5, top=tuple(top)) for token_id in token_ids]
    return kind(SimpleNamespace(), model, "tiny")._logprobs(tokens)


@given(text=st.text(max_size=20))
def test_bytes_of_all_tokens_are_the_text_and_offsets_lead_to_the_character_that_they_begin_in(model, text):
    token_ids = model.tokenizer.encode(text, add_special_tokens=False)
    written = [bytes(entry["bytes"]) for entry in logprobs(ChatWriter, model, token_ids)["content"]]
    assert b"".join(written) == text.encode()
    starts = [sum(map(len, written[:place])) for place in range(len(written))]
    # Bytes of the character that is not whole before a token's start are left out: it begins there.
    expected = [len(text.encode()[:start].decode(errors="ignore")) for start in starts]
    assert logprobs(CompletionWriter, model, token_ids)["text_offset"] == expected


def test_a_token_that_ends_within_a_character_is_spelt_by_its_bytes(model):
    euro = [model.tokenizer.token_to_id(character) for character in "âĤ¬"]  # its three bytes, as GPT-2 writes them
    assert logprobs(CompletionWriter, model, euro)["tokens"] == [r"bytes:\xe2", r"bytes:\x82", r"bytes:\xac"]
    assert logprobs(CompletionWriter, model, euro)["text_offset"] == [0, 0, 0]
    assert [entry["bytes"] for entry in logprobs(ChatWriter, model, euro)["content"]] == [[0xE2], [0x82], [0xAC]]


def test_no_alternative_is_lost(model, sentencepiece):
    for loaded in (model, sentencepiece):
        num_ids = loaded.tokenizer.vocabulary_size + 3  # a vocabulary padded beyond the tokenizer's
        top = [(token_id, -float(token_id)) for token_id in range(num_ids)]
        (entry,) = logprobs(CompletionWriter, loaded, [5], top)["top_logprobs"]
        assert list(entry.values()) == [-float(token_id) for token_id in range(num_ids)]
        assert json.loads(json.dumps(entry)) == entry
        (chat,) = logprobs(ChatWriter, loaded, [5], top)["content"]
        assert len(chat["top_logprobs"]) == num_ids


def test_of_tokens_that_are_spelt_alike_the_answer_s_own_has_the_text(sentencepiece):
    letter = WORDS.index("a")
    byte = len(WORDS) + ord("a")
    top = [(letter, -1.0), (byte, -2.0)]
    (chosen,) = logprobs(CompletionWriter, sentencepiece, [letter], top)["top_logprobs"]
    assert chosen == {"a": -1.0, f"token_id:{byte}": -2.0}
    (chosen,) = logprobs(CompletionWriter, sentencepiece, [byte], top)["top_logprobs"]
    assert chosen == {f"token_id:{letter}": -1.0, "a": -2.0}
    (other,) = logprobs(CompletionWriter, sentencepiece, [0], top)["top_logprobs"]
    assert other == {"a": -1.0, f"token_id:{byte}": -2.0}


def test_a_token_keeps_its_space_and_offsets_are_those_of_the_text_without_it(sentencepiece):
    token_ids = [WORDS.index(token) for token in ("▁The", "▁pins", "<s>", "a", "€", "s")]
    text = sentencepiece.tokenizer.decode(token_ids)
    assert text == "The pinsa€s"
    whole = logprobs(CompletionWriter, sentencepiece, token_ids)
    assert whole["tokens"] == [" The", " pins", "<s>", "a", "€", "s"]
    assert whole["text_offset"] == [0, 3, 8, 8, 9, 10]
    chat = logprobs(ChatWriter, sentencepiece, token_ids)["content"]
    assert "".join(entry["token"] for entry in chat) == " The pins<s>a€s"


def test_bytes_of_a_sentencepiece_vocabulary_are_the_bytes_that_they_name(sentencepiece):
    token_ids = [len(WORDS) + byte for byte in "é".encode()]
    chat = logprobs(ChatWriter, sentencepiece, token_ids)["content"]
    assert bytes(entry["bytes"][0] for entry in chat) == "é".encode()
    assert [entry["token"] for entry in chat] == [r"bytes:\xc3", r"bytes:\xa9"]
    assert logprobs(CompletionWriter, sentencepiece, [*token_ids, WORDS.index("a")])["text_offset"] == [0, 0, 1]
