"""The tokenizer of a GGUF file gives the ids of the original; an independent reading of the file gives its tokens."""

from __future__ import annotations

import io
import json
import struct

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dovetail_ort_export.source.gguf_tokenizer import read_gguf_text
from dovetail_ort_runtime.errors import SourceError

SENTENCES = (
    "A dovetail joint has tails and pins, and the tails hold the pins without a nail.",
    "Gr\u00f6\u00dfe, na\u00efve caf\u00e9, \u65e5\u672c\u8a9e and 3 \u20ac need more than one byte a character.",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ANY_TEXT = st.text(max_size=60)


def read_strings(path, wanted):
    """A list of strings of a GGUF file, read byte by byte as the format's specification lays it out."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    file = io.BytesIO(path.read_bytes())

    def number(form):
        return struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0]

    def value(kind):
        if kind == 8:
            return file.read(number("Q"))
        if kind == 9:
            element, count = number("I"), number("Q")
            return [value(element) for _ in range(count)]
        return file.read(sizes[kind])

    assert file.read(4) == b"GGUF"
    assert number("I") == 3
    _, count = number("Q"), number("Q")
    fields = {}
    for _ in range(count):
        key = file.read(number("Q")).decode()
        fields[key] = value(number("I"))
    return [text.decode() for text in fields[wanted]]


@pytest.fixture(scope="module")
def original():
    """A byte-level tokenizer, trained on a few sentences."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(SENTENCES, trainer)
    return made


@pytest.fixture(scope="module")
def converted(original):
    """What a converter stores of it."""
    vocabulary = sorted(original.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(original.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token, _ in vocabulary],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": 2,
    }


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A sentencepiece BPE model with byte fallback, by the library itself."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text").write_text("\n".join(SENTENCES * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tiny"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tiny.model"))


@pytest.fixture(scope="module")
def pieces_converted(pieces):
    """What a converter stores of it."""

    def kind(token_id):
        if pieces.IsUnknown(token_id):
            return 2
        if pieces.IsControl(token_id):
            return 3
        return 6 if pieces.IsByte(token_id) else 1

    count = pieces.GetPieceSize()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.IdToPiece(token_id) for token_id in range(count)],
        "tokenizer.ggml.scores": [pieces.GetScore(token_id) for token_id in range(count)],
        "tokenizer.ggml.token_type": [kind(token_id) for token_id in range(count)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def with_tokens(metadata, *added):
    """The vocabulary with further tokens of the given text and type."""
    return {
        **metadata,
        "tokenizer.ggml.tokens": [*metadata["tokenizer.ggml.tokens"], *(token for token, _ in added)],
        "tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], *(kind for _, kind in added)],
    }


def test_the_vocabulary_is_that_of_an_independent_reading_of_the_file(gguf_of):
    from dovetail_ort_export.source.gguf_checkpoint import read_gguf

    path, _ = gguf_of(more={"tokenizer.ggml.unknown_token_id": 0})
    tokenizer = read_gguf(path).text.tokenizer
    tokens = read_strings(path, "tokenizer.ggml.tokens")
    assert [tokenizer.id_to_token(token_id) for token_id in range(len(tokens))] == tokens
    assert tokenizer.get_vocab_size() == len(tokens)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert [" ".join(merge) for merge in merges] == read_strings(path, "tokenizer.ggml.merges")


@given(text=ANY_TEXT)
def test_byte_level_ids_are_those_of_the_original(original, converted, text):
    tokenizer = read_gguf_text(converted).tokenizer
    ids = tokenizer.encode(text).ids
    assert ids == original.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(text=ANY_TEXT)
def test_sentencepiece_ids_are_those_of_the_library(pieces, pieces_converted, text):
    # U+2581 stands for a space, and U+0000 ends a text in the library.
    text = text.replace("\u2581", "").replace("\0", "")
    tokenizer = read_gguf_text(pieces_converted).tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == pieces.EncodeAsIds(text)
    assert tokenizer.decode(ids) == text


def test_sentencepiece_without_the_space_in_front_adds_none(pieces_converted):
    text = read_gguf_text({**pieces_converted, "tokenizer.ggml.add_space_prefix": False})
    encoded = text.tokenizer.encode("the tails", add_special_tokens=False)
    assert not encoded.tokens[0].startswith("\u2581")
    assert text.tokenizer.decode(encoded.ids) == "the tails"


def test_a_sentencepiece_text_goes_on_with_a_space_after_a_special_token(pieces_converted):
    tokenizer = read_gguf_text(pieces_converted).tokenizer
    words = tokenizer.encode("tails", add_special_tokens=False).tokens
    assert words[0].startswith("\u2581")
    assert tokenizer.encode("tails</s>tails", add_special_tokens=False).tokens == [*words, "</s>", *words]


def test_a_word_that_is_a_token_needs_no_merges_where_the_rule_says_so(converted):
    word = "\u0120unmergeable"
    longer = with_tokens(converted, (word, 1))
    for rule, whole in (("llama-bpe", True), ("tekken", True), ("gpt-2", False), ("smaug-bpe", False)):
        tokenizer = read_gguf_text({**longer, "tokenizer.ggml.pre": rule}).tokenizer
        assert (tokenizer.encode("an unmergeable").tokens[-1] == word) is whole


def test_qwen_composes_characters_first(converted):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    qwen = read_gguf_text({**converted, "tokenizer.ggml.pre": "qwen2"}).tokenizer
    llama = read_gguf_text({**converted, "tokenizer.ggml.pre": "llama-bpe"}).tokenizer
    assert qwen.encode(decomposed).ids == qwen.encode(composed).ids
    assert llama.encode(decomposed).ids != llama.encode(composed).ids


@pytest.mark.parametrize(
    ("kind", "found", "special"),
    [(1, False, False), (2, True, True), (3, True, True), (4, True, False), (5, False, False), (6, False, False)],
)
def test_a_token_is_found_in_text_and_hidden_by_its_type(converted, kind, found, special):
    text = read_gguf_text(with_tokens(converted, ("<tool>", kind)))
    number = len(converted["tokenizer.ggml.tokens"])
    encoded = text.tokenizer.encode("a<tool>b")
    assert (number in encoded.ids) is found
    shown = text.tokenizer.decode([number], skip_special_tokens=True)
    assert (shown == "") is special


def test_an_end_of_turn_of_the_wrong_type_is_special_all_the_same(converted):
    text = read_gguf_text(with_tokens(converted, ("<|eot_id|>", 1)))
    number = len(converted["tokenizer.ggml.tokens"])
    assert text.tokenizer.encode("a<|eot_id|>").ids[-1] == number
    assert text.tokenizer.decode([number]) == ""
    assert number in text.eos_token_ids


@pytest.mark.parametrize(
    ("more", "begin", "end"),
    [
        ({}, [], []),
        ({"bos_token_id": 0}, [], []),
        ({"bos_token_id": 0, "add_bos_token": True}, [0], []),
        ({"bos_token_id": 0, "pre": "llama-bpe"}, [0], []),
        ({"bos_token_id": 0, "pre": "llama-bpe", "add_bos_token": False}, [], []),
        ({"bos_token_id": 1, "pre": "tekken", "add_eos_token": True}, [1], [2]),
        ({"add_eos_token": True}, [], [2]),
        ({"pre": "llama-bpe"}, [], []),
    ],
)
def test_a_text_begins_and_ends_as_the_flags_say(converted, more, begin, end):
    fields = {f"tokenizer.ggml.{key}": value for key, value in more.items()}
    tokenizer = read_gguf_text({**converted, **fields}).tokenizer
    words = tokenizer.encode("tails", add_special_tokens=False).ids
    assert tokenizer.encode("tails").ids == [*begin, *words, *end]
    assert tokenizer.encode("tails", "tails").ids == [*begin, *words, *end] * 2


def test_a_sentencepiece_text_begins_with_the_begin_token_unless_the_file_says_otherwise(pieces_converted):
    unnamed = {key: value for key, value in pieces_converted.items() if "os_token_id" not in key}
    assert read_gguf_text(unnamed).tokenizer.encode("a").ids[0] == 1
    assert read_gguf_text(unnamed).special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    off = {**pieces_converted, "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}
    ids = read_gguf_text(off).tokenizer.encode("a").ids
    assert (ids[0] != 1, ids[-1]) == (True, 2)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (2, 0)),
        ({"tokenizer.ggml.eos_token_id": 0}, (0, 2)),
        ({"tokenizer.ggml.eos_token_id": 5, "tokenizer.ggml.eot_token_id": 6}, (5, 6, 0, 2)),
        ({"tokenizer.ggml.eom_token_id": 7, "tokenizer.ggml.eos_token_ids": [8, 9]}, (2, 7, 8, 9, 0)),
        (
            {"tokenizer.chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}<turn>{% endfor %}"},
            (2, 0, 10),
        ),
        (
            {"tokenizer.chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n<turn>\n{% endfor %}"},
            (2, 0, 10),
        ),
        ({"tokenizer.chat_template": "{% for m in messages %}{{ m.content }} and so on{% endfor %}"}, (2, 0)),
        ({"tokenizer.chat_template": "{{ raise_exception('no') }}"}, (2, 0)),
    ],
)
def test_ends_are_found_by_field_by_name_and_by_what_the_template_writes(converted, more, expected):
    tokens = list(converted["tokenizer.ggml.tokens"])
    kinds = list(converted["tokenizer.ggml.token_type"])
    tokens[10], kinds[10] = "<turn>", 4
    fields = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    merges = merges_of(tokens, converted["tokenizer.ggml.merges"])
    metadata = {**converted, **fields, "tokenizer.ggml.merges": merges, **more}
    assert read_gguf_text(metadata).eos_token_ids == expected


def merges_of(tokens, merges):
    """The merges whose tokens are all there."""
    known = set(tokens)
    return [merge for merge in merges if {*merge.split(" "), merge.replace(" ", "")} <= known]


def test_special_tokens_have_the_names_that_templates_use(converted):
    ids = {"bos": 0, "eos": 2, "unknown": 0, "padding": 1, "mask": 5_000_000}
    fields = {f"tokenizer.ggml.{name}_token_id": token_id for name, token_id in ids.items()}
    found = read_gguf_text({**converted, **fields}).special_tokens
    expected = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "unk_token": SPECIAL[0], "pad_token": SPECIAL[1]}
    assert found == expected


@pytest.mark.parametrize(
    ("templates", "chosen", "notes"),
    [
        ({}, None, 0),
        ({"": "A"}, "A", 0),
        ({"": "A", ".tool_use": "B"}, "A", 1),
        ({".default": "A", ".rag": "B"}, "A", 1),
        ({".tool_use": "B"}, None, 1),
        ({"": "{% for %}"}, None, 1),
        ({"": " \n"}, None, 1),
    ],
)
def test_the_default_template_is_chosen_and_others_are_noted(converted, templates, chosen, notes):
    fields = {f"tokenizer.chat_template{name}": text for name, text in templates.items()}
    text = read_gguf_text({**converted, **fields, "tokenizer.chat_templates": ["tool_use"]})
    assert (text.chat_template, len(text.notes)) == (chosen, notes)


def test_a_file_that_names_no_rule_is_split_as_llama_cpp_does_and_noted(converted):
    unnamed = {key: value for key, value in converted.items() if key != "tokenizer.ggml.pre"}
    text = read_gguf_text(unnamed)
    assert len(text.notes) == 1
    default = read_gguf_text({**converted, "tokenizer.ggml.pre": "default"})
    assert text.tokenizer.to_str() == default.tokenizer.to_str()
    assert default.notes == ()


def test_a_tokenizer_survives_its_own_file(converted, pieces_converted):
    for metadata in (converted, pieces_converted):
        tokenizer = read_gguf_text(metadata).tokenizer
        again = Tokenizer.from_str(tokenizer.to_str())
        assert again.encode(" ".join(SENTENCES)).ids == tokenizer.encode(" ".join(SENTENCES)).ids


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"model": "bert"}, "model must be gpt2 or llama, got 'bert'"),
        ({"model": "t5"}, "got 't5'"),
        ({"tokens": []}, "must have the list tokenizer.ggml.tokens"),
        ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1]}, "each token once, got 'a' 2 times"),
        ({"token_type": [1, 1]}, "token_type must have one entry for each of"),
        ({"merges": ["ab"]}, "two tokens, got 'ab'"),
        ({"merges": ["q zz"]}, "merges must join tokens into tokens"),
        ({"merges": None}, "must have the list tokenizer.ggml.merges"),
        ({"pre": "never-heard-of"}, "got 'never-heard-of'"),
        ({"add_bos_token": True}, "must have bos_token_id, got none"),
        ({"add_sep_token": True}, "add_sep_token must be false"),
        ({"add_space_prefix": True}, "add_space_prefix must be false"),
        ({"eos_token_id": 100_000}, "eos_token_id must be below the number of tokens"),
        ({"model": "llama"}, "must have the list tokenizer.ggml.scores"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused_by_name(converted, more, reason):
    fields = {**converted, **{f"tokenizer.ggml.{key}": value for key, value in more.items()}}
    with pytest.raises(SourceError, match=reason):
        read_gguf_text({key: value for key, value in fields.items() if value is not None})


def test_a_score_that_is_no_number_is_refused(pieces_converted):
    scores = [*pieces_converted["tokenizer.ggml.scores"][:-1], float("nan")]
    with pytest.raises(SourceError, match="scores must be finite, got NaN"):
        read_gguf_text({**pieces_converted, "tokenizer.ggml.scores": scores})


def test_scores_that_rank_nothing_are_refused(pieces_converted):
    scores = [-1000.0] * len(pieces_converted["tokenizer.ggml.scores"])
    with pytest.raises(SourceError, match="scores must rank the pieces, got -1000 for all"):
        read_gguf_text({**pieces_converted, "tokenizer.ggml.scores": scores})


def test_a_file_without_any_end_is_refused():
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": [],
    }
    with pytest.raises(SourceError, match="must name a token that ends an answer"):
        read_gguf_text(metadata)
