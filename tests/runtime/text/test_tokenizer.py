"""A tokenizer gives the ids and texts of the package, and hostile files are refused."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.text.tokenizer import Tokenizer, tokenizer_failures

SENTENCES = ["The cat sat on the mat.", "A dove's tail is a joint: 12 pins, 34 tails.", "Überall gibt es Käse für 3 €."]
BEGIN, END = "<|begin|>", "<|end|>"
KINDS = ("byte_level", "byte_fallback", "metaspace", "word_piece")


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
    with pytest.raises(BundleError, match=r"no tokenizer at .*tokenizer\.json; export the model again$"):
        Tokenizer(path)


@pytest.mark.parametrize(("before", "shown"), [("a", "a"), ("x" * 1000 + "a", "x" * 19 + "a")], ids=["short", "long"])
def test_a_lone_surrogate_is_an_input_error_that_shows_it(before, shown, tokenizer):
    with pytest.raises(InputError, match=rf"without lone surrogates, got '{shown}\\udcff"):
        tokenizer.encode(before + "\udcff" + "x" * 1000, add_special_tokens=False)


# Files that the tokenizers package reads and that make no sense


def contents(**parts):
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], **empty, "model": model, **parts}


def replace(content="aa", pattern="a", kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def charsmap(text):
    trie = bytes(4)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + text.encode()).decode()


def sequence(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


PANICS_ON_READING = {
    "merge of a short token": {
        "model": {**contents()["model"], "continuing_subword_prefix": "##", "vocab": {"a": 0, "b": 1, "ab": 2}}
    },
    "charsmap that is none": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}},
}
PANICS_ON_ENCODING = {
    "backtracking": {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False,
        }
    },
    "unknown special token": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "no", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "length of nothing": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "charsmap beyond its end": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAA"}},
    "no unknown token": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "no"}},
}  # fmt: skip


@pytest.mark.parametrize("case", PANICS_ON_READING)
def test_a_panic_on_reading_is_one_line_that_names_the_file(case, path):
    path.write_text(json.dumps(contents(**PANICS_ON_READING[case])))
    with pytest.raises(BundleError, match=r"tokenizer\.json must be a tokenizer of the tokenizers package") as caught:
        Tokenizer(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", PANICS_ON_ENCODING)
def test_a_panic_on_encoding_is_one_line_that_names_the_file(case, path):
    path.write_text(json.dumps(contents(**PANICS_ON_ENCODING[case])))
    tokenizer = Tokenizer(path)
    with pytest.raises(BundleError, match=r"tokenizer\.json must be a tokenizer of the tokenizers package") as caught:
        tokenizer.encode("a" * 40 + "b", add_special_tokens=True)
    assert "\n" not in str(caught.value)


def test_an_interrupt_is_no_panic(path):
    with pytest.raises(KeyboardInterrupt), tokenizer_failures(path):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("parts", "growth"),
    [
        ({"normalizer": sequence(*[replace()] * 40)}, 2**40),
        ({"normalizer": sequence(*[replace("", "", "Regex")] * 8, replace("a" * 300))}, 300),
        ({"normalizer": sequence(*[replace("b", "", "String")] * 9)}, 2**9),
        ({"normalizer": sequence(*[replace("b", "", "Regex")] * 9)}, 2**9),
        ({"normalizer": sequence(*[sequence(replace("a" * 20))] * 2)}, 400),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap("a" * 600)}}, 600),
        ({"decoder": {"type": "Sequence", "decoders": [replace("a" * 20)] * 2}}, 400),
    ],
)
def test_a_text_that_would_grow_beyond_measure_is_refused_before_it_is_read(path, parts, growth):
    # the special token would grow while the file is read
    token = {"id": 3, "content": "aaa", "single_word": False, "lstrip": False, "rstrip": False}
    path.write_text(json.dumps(contents(**parts, added_tokens=[{**token, "normalized": True, "special": True}])))
    with pytest.raises(BundleError, match=r"that makes a text ([0-9]+) times as long") as caught:
        Tokenizer(path)
    assert growth <= int(str(caught.value).split(" times")[0].split()[-1]) <= growth + 2


def test_replacements_of_one_character_by_another_do_not_grow(path):
    steps = [{"type": "Prepend", "prepend": "b"}, *[replace("b", "a")] * 40, {"type": "NFKC"}]
    path.write_text(json.dumps(contents(normalizer=sequence(*steps))))
    assert Tokenizer(path).encode("a", add_special_tokens=False) == [1, 1]


@pytest.mark.parametrize("text", ['{"model": {}, "model": {}}', '{"normalizer": null, "normalizer": {}}'])
def test_a_key_that_two_readers_could_read_differently_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(BundleError, match="got a JSON object with a key twice"):
        Tokenizer(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.sampled_from([10**10, 0.5, -1e308, "a", "b", "", "Regex"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "type", "id"]), inner, max_size=2)
    ),
    max_leaves=4,
)
WHOLE = contents(
    added_tokens=[
        {"id": 3, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
        | {"special": True}
    ],
    truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    padding={"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    | {"pad_type_id": 0, "pad_token": "a"},
    normalizer=sequence({"type": "Prepend", "prepend": "a"}, replace("b"), {"type": "Strip", "strip_left": True}),
    pre_tokenizer={"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False},
    post_processor={
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}},
    },
    decoder={"type": "Sequence", "decoders": [replace(" "), {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
)


def places(value, path=()):
    """Paths of all values within a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


@given(st.sampled_from(list(places(WHOLE))), json_values)
def test_any_changed_value_gives_a_tokenizer_or_a_bundle_error(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    whole = inner = json.loads(json.dumps(WHOLE))
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(whole))
    message = ""
    try:
        tokenizer = Tokenizer(path)
        tokenizer.decode(tokenizer.encode("ab <s> abba", add_special_tokens=True))
    except BundleError as error:
        message = str(error)
    assert "\n" not in message


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """`kinds[name]`: a tokenizer of each kind of decoder, trained here or written out, with a special token."""
    folder = tmp_path_factory.mktemp("kinds")
    byte_level, byte_fallback, metaspace, word_piece = (tokenizers.Tokenizer(models.BPE()) for _ in range(4))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    pieces = ["<unk>", "▁", "▁the", "cat", "s▁", "é", *(f"<0x{byte:02X}>" for byte in range(256))]
    byte_fallback.model = models.BPE(
        {piece: place for place, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"
    )
    byte_fallback.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    byte_fallback.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    metaspace.pre_tokenizer, metaspace.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    word_piece.model = models.WordPiece(unk_token="[UNK]")
    word_piece.pre_tokenizer, word_piece.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False)
    for fast, trainer in (
        (byte_level, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)),
        (metaspace, trainers.BpeTrainer(vocab_size=100, show_progress=False)),
        (word_piece, trainers.WordPieceTrainer(vocab_size=100, special_tokens=["[UNK]"], show_progress=False)),
    ):
        fast.train_from_iterator(SENTENCES, trainer)
    found = dict(zip(KINDS, (byte_level, byte_fallback, metaspace, word_piece), strict=True))
    for name, fast in found.items():
        fast.add_special_tokens([END])
        fast.add_tokens([tokenizers.AddedToken("<think>", special=False)])
        fast.save(str(folder / name))
    return {name: Tokenizer(folder / name) for name in found}


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.lists(
        st.sampled_from(["The cat", "s ", " ", "  ", "é", "日本語", "👩‍🚀", END, "<think>", ".", "\n"]), max_size=12
    )
)
def test_bytes_of_tokens_put_together_are_the_text_but_for_its_first_spaces(kinds, kind, parts):
    tokenizer = kinds[kind]
    ids = tokenizer.encode("".join(parts), add_special_tokens=False)
    together = b"".join(tokenizer.token_bytes(token_id) for token_id in ids).decode()
    text = tokenizer.decode(ids, skip_special_tokens=False)
    if kind == "byte_level":
        assert together == text
    assert together.lstrip(" ") == text.lstrip(" ")


@given(st.text(max_size=30))
def test_bytes_of_byte_tokens_are_those_of_the_text(kinds, text):
    for kind in ("byte_level", "byte_fallback"):
        ids = kinds[kind].encode(text, add_special_tokens=False)
        together = b"".join(kinds[kind].token_bytes(token_id) for token_id in ids)
        assert together.removeprefix(b" " if kind == "byte_fallback" and text else b"") == text.encode()


@pytest.mark.parametrize(
    ("kind", "token", "written"),
    [
        ("byte_level", "Ġ", b" "),
        ("byte_level", "â", b"\xe2"),
        ("byte_level", END, END.encode()),
        ("byte_fallback", "<0xE2>", b"\xe2"),
        ("byte_fallback", "<0x0A>", b"\n"),
        ("byte_fallback", "▁the", b" the"),
        ("byte_fallback", "▁", b" "),
        ("byte_fallback", "s▁", b"s "),
        ("byte_fallback", END, END.encode()),
        ("metaspace", "▁", b" "),
        ("word_piece", "<think>", b" <think>"),
    ],
)
def test_bytes_of_a_token(kinds, kind, token, written):
    assert kinds[kind].token_bytes(kinds[kind].token_to_id(token)) == written


def test_text_of_a_token_keeps_its_space_and_shows_parts_of_characters(kinds):
    tokenizer = kinds["byte_fallback"]
    texts = [tokenizer.token_text(tokenizer.token_to_id(token)) for token in ("▁the", "<0xE2>", "<0x41>")]
    assert texts == [" the", "\ufffd", "A"]


def test_an_id_without_a_token_writes_nothing(kinds):
    assert kinds["byte_level"].token_bytes(10**6) == b""
