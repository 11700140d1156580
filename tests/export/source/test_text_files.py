"""Text files of a directory; ids are those of transformers' AutoTokenizer on the same directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dovetail_ort_export.source.text_files import read_text_files
from dovetail_ort_runtime.errors import SourceError

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
NAMED = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END_TURN}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = (
    "",
    "A dovetail joint has tails and pins.",
    "  two  spaces and a tab\t\n\n",
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "x <|im_end|>  y<|endoftext|>",
    "<extra> and <more> </s><s>",
    "Größe, naïve cafe\u0301, 日本語 and 3 € 1234567",
)

Directory = Callable[..., Path]


def byte_level(special: tuple[str, ...] = (END, START_TURN, END_TURN)) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def begun(tokenizer: Tokenizer) -> Tokenizer:
    """As Llama 3: the file itself puts a token before a text."""
    number = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, number)])
    return tokenizer


def of_words() -> Tokenizer:
    """As sentencepiece models are converted: spaces as a character, bytes for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["A dovetail joint has tails and pins."], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def as_qwen() -> Tokenizer:
    tokenizer = byte_level()
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def listed(text: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": text, **plain, **flags}


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """`directory(tokenizer, settings, **files)`: a directory's text files; "__" in a file's name stands for a dot."""

    def make(tokenizer: Tokenizer | None = None, settings: dict[str, Any] | None = None, **files: Any) -> Path:
        (tokenizer or byte_level()).save(str(tmp_path / "tokenizer.json"))
        contents = {"config__json": {"model_type": "llama"}, **files}
        if settings is not None:
            contents["tokenizer_config__json"] = settings
        for name, content in contents.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8")
        return tmp_path

    return make


def read(path: Path, generation: dict[str, Any] | None = None, **config: Any) -> Any:
    return read_text_files(path, {"vocab_size": 1000, "eos_token_id": 2, **config}, generation or {})


def assert_ids_are_transformers(path: Path, found: Tokenizer) -> None:
    import transformers

    expected = transformers.AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        for special in (True, False):
            theirs = expected(text, add_special_tokens=special)["input_ids"]
            assert found.encode(text, add_special_tokens=special).ids == theirs, (text, special)


@pytest.mark.parametrize("tokenizer", [byte_level, lambda: begun(byte_level()), of_words, as_qwen])
def test_ids_are_those_of_transformers(tokenizer: Callable[[], Tokenizer], directory: Directory):
    made = tokenizer()
    ends = {"bos_token": "<s>", "eos_token": "</s>"} if made.token_to_id("<s>") is not None else {}
    path = directory(made, NAMED | ends)

    assert_ids_are_transformers(path, read(path).tokenizer)


@pytest.mark.parametrize(
    "settings",
    [
        {"additional_special_tokens": [START_TURN, {"__type": "AddedToken", **listed(END_TURN)}]},
        {"extra_special_tokens": {"image_token": START_TURN}},
        {"added_tokens_decoder": {"2": listed(END_TURN, lstrip=True, rstrip=True)}},
        {"added_tokens_decoder": {"330": listed("<extra>", special=False), "331": listed("<more>")}},
        {
            "bos_token": {"__type": "AddedToken", **listed(END)},
            "eos_token": {"__type": "AddedToken", **listed(END_TURN)},
        },
        {"bos_token": None, "pad_token": END},
        {"eos_token": "A"},
        {"add_bos_token": False, "add_eos_token": False},
        {"clean_up_tokenization_spaces": True, "model_max_length": 4, "padding_side": "left"},
    ],
)
def test_ids_are_those_of_transformers_with_settings_beside_the_tokenizer(
    settings: dict[str, Any], directory: Directory
):
    path = directory(byte_level(), NAMED | settings)

    assert_ids_are_transformers(path, read(path).tokenizer)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": False},
        {"extra_special_tokens": [START_TURN, END_TURN]},
        {"model_specific_special_tokens": {"image_token": START_TURN}},
    ],
)
def test_settings_as_transformers_5_writes_them_are_read(settings: dict[str, Any], directory: Directory):
    plain = byte_level()
    found = read(directory(plain, NAMED | settings))

    assert [found.tokenizer.encode(text).ids for text in TEXTS] == [plain.encode(text).ids for text in TEXTS]
    assert found.special_tokens.items() >= {"bos_token": END, "eos_token": END_TURN}.items()


def test_names_and_tokens_in_files_of_early_transformers_4_are_read(directory: Directory):
    path = directory(
        byte_level(),
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        special_tokens_map__json={"bos_token": END, "eos_token": listed(END_TURN)},
        added_tokens__json={"<extra>": 330, "<more>": 331},
    )
    found = read(path)

    assert_ids_are_transformers(path, found.tokenizer)
    assert found.special_tokens == {"bos_token": END, "eos_token": END_TURN}


def test_special_tokens_are_those_of_transformers(directory: Directory):
    import transformers

    path = directory(
        byte_level(), NAMED | {"pad_token": END, "unk_token": END, "extra_special_tokens": {"image_token": START_TURN}}
    )

    assert read(path).special_tokens == transformers.AutoTokenizer.from_pretrained(path).special_tokens_map


def test_truncation_and_padding_in_the_file_are_dropped(directory: Directory):
    cut = byte_level()
    cut.enable_truncation(3)
    cut.enable_padding(length=9, pad_token=END)
    path = directory(cut, NAMED)

    assert_ids_are_transformers(path, read(path).tokenizer)


@pytest.mark.parametrize("asked", [True, False])
def test_what_the_tokenizer_puts_before_a_text_wins_over_the_settings_and_a_note_says_so(
    asked: bool, directory: Directory
):
    tokenizer = byte_level() if asked else begun(byte_level())
    expected = tokenizer.encode("A").ids

    agreeing = read(directory(tokenizer, NAMED | {"add_bos_token": not asked}))
    found = read(directory(tokenizer, NAMED | {"add_bos_token": asked}))

    assert found.tokenizer.encode("A").ids == expected
    assert "add_bos_token" in found.notes[0]
    assert agreeing.notes == ()


def test_a_llama_class_without_the_key_has_a_note_where_transformers_4_begins_a_text(directory: Directory):
    settings = NAMED | {"tokenizer_class": "LlamaTokenizerFast"}

    assert "add_bos_token" in read(directory(byte_level(), settings)).notes[0]
    assert read(directory(begun(byte_level()), settings)).notes == ()


def test_without_tokenizer_config_begin_and_end_come_from_the_ids_of_the_configuration(directory: Directory):
    found = read(directory(), bos_token_id=0, eos_token_id=2)

    assert found.special_tokens == {"bos_token": END, "eos_token": END_TURN}
    assert found.eos_token_ids == (2,)
    assert "tokenizer_config.json" in found.notes[0]


def test_a_named_token_that_the_tokenizer_lacks_is_left_out_with_a_note(directory: Directory):
    found = read(directory(byte_level(), NAMED | {"bos_token": "<s>"}))

    assert found.special_tokens["bos_token"] == ""
    assert found.tokenizer.token_to_id("<s>") is None
    assert "<s>" in found.notes[0]


def test_a_listed_token_that_would_get_another_id_is_refused(directory: Directory):
    path = directory(byte_level(), NAMED | {"added_tokens_decoder": {"500": listed("<extra>")}})

    with pytest.raises(SourceError, match=r"'<extra>'.*500.*330"):
        read(path)


def test_an_id_beyond_the_vocabulary_is_refused_with_its_token(directory: Directory):
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    assert read(directory(tokenizer, NAMED), vocab_size=size).eos_token_ids == (2,)
    tokenizer.add_special_tokens([AddedToken("<|user|>", special=True)])

    with pytest.raises(SourceError, match=rf"below the model's vocabulary of {size}, got {size} for '<\|user\|>'"):
        read(directory(tokenizer, NAMED), vocab_size=size)


def test_an_id_around_a_text_that_is_beyond_the_vocabulary_is_refused(directory: Directory):
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 5000)])

    with pytest.raises(SourceError, match="below the model's vocabulary of 1000, got 5000"):
        read(directory(tokenizer, NAMED))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": {"type": "New"}}'])
def test_a_damaged_tokenizer_is_an_error_of_one_line(content: str, directory: Directory):
    path = directory(settings=NAMED)
    (path / "tokenizer.json").write_text(content)

    with pytest.raises(SourceError, match=r"tokenizer\.json") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("others", "action"),
    [(("tokenizer.model",), "save_pretrained"), (("vocab.json", "merges.txt"), "save_pretrained"), ((), "download")],
)
def test_a_missing_tokenizer_is_an_error_that_says_how_to_get_one(others: tuple[str, ...], action: str, tmp_path: Path):
    for name in others:
        (tmp_path / name).touch()

    with pytest.raises(SourceError, match=action):
        read(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_damaged_settings_are_an_error_that_names_the_file(content: str, directory: Directory):
    path = directory()
    (path / "tokenizer_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))

    with pytest.raises(SourceError, match=r"tokenizer_config\.json"):
        read(path)


@pytest.mark.parametrize(
    ("generation", "config", "named", "ends"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": 0}, END_TURN, (2,)),
        ({"eos_token_id": [2, 0]}, {"eos_token_id": 1}, END_TURN, (2, 0)),
        ({}, {"eos_token_id": [0, 2]}, END_TURN, (0, 2)),
        ({}, {"eos_token_id": None}, END_TURN, (2,)),
        ({"eos_token_id": -1}, {"eos_token_id": None}, END_TURN, (2,)),
        ({"eos_token_id": 0}, {}, END_TURN, (0, 2)),
    ],
)
def test_answers_end_where_generation_settings_configuration_or_tokenizer_say(
    generation: dict[str, Any], config: dict[str, Any], named: str, ends: tuple[int, ...], directory: Directory
):
    found = read(directory(byte_level(), NAMED | {"eos_token": named}), generation, **config)

    assert found.eos_token_ids == ends


def test_a_model_without_an_end_is_refused(directory: Directory):
    path = directory(byte_level(), {"tokenizer_class": "PreTrainedTokenizerFast"})

    with pytest.raises(SourceError, match="must name an end-of-text token"):
        read(path, eos_token_id=None)


@pytest.mark.parametrize("value", ["2", True, [2.0], {"id": 2}])
def test_an_end_that_is_no_token_id_is_refused(value: Any, directory: Directory):
    with pytest.raises(SourceError, match=r"eos_token_id of generation_config\.json"):
        read(directory(byte_level(), NAMED), {"eos_token_id": value})


ANSWERS = {
    # template, and the token after an answer
    "chatml": (CHATML, END_TURN),
    "trimmed": ("{% for m in messages %}<|im_start|>{{ m['content'] | trim }} <|im_end|>{% endfor %}", END_TURN),
    "by name": ("{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}", END_TURN),
    "plain": ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", None),
    "opening of the next": ("{% for m in messages %}{{ m['content'] }}<|im_start|>{% endfor %}", None),
    "refuses": ("{{ raise_exception('no') }}", None),
}


@pytest.mark.parametrize(("template", "token"), ANSWERS.values(), ids=ANSWERS)
def test_what_the_template_writes_after_an_answer_ends_it_too(template: str, token: str | None, directory: Directory):
    settings = {"eos_token": END_TURN} if "eos_token" in template else {"eos_token": END}
    found = read(directory(byte_level(), NAMED | settings | {"chat_template": template}), {"eos_token_id": 0})

    assert found.eos_token_ids == ((0,) if token is None else (0, found.tokenizer.token_to_id(token)))
    assert len(found.notes) == (0 if token is None else 1)


def test_a_template_file_goes_before_the_settings_and_a_note_says_so(directory: Directory):
    import transformers

    path = directory(byte_level(), NAMED | {"chat_template": "old"}, chat_template__jinja=CHATML)
    found = read(path)

    assert found.chat_template == transformers.AutoTokenizer.from_pretrained(path).chat_template == CHATML
    assert "chat_template.jinja" in found.notes[0]
    assert read(directory(byte_level(), NAMED | {"chat_template": CHATML})).notes == ()


def test_the_template_called_default_is_taken_and_others_are_named(directory: Directory):
    templates = [{"name": "rag", "template": "rag"}, {"name": "default", "template": CHATML}]
    found = read(directory(byte_level(), NAMED | {"chat_template": templates}))

    assert found.chat_template == CHATML
    assert "rag" in found.notes[0]


def test_templates_of_which_none_is_called_default_are_named_and_left_out(directory: Directory):
    templates = [{"name": "tool_use", "template": CHATML}, {"name": "rag", "template": CHATML}]
    found = read(directory(byte_level(), NAMED | {"chat_template": templates}))

    assert found.chat_template is None
    assert "rag, tool_use" in found.notes[0]


def test_additional_templates_stand_beside_the_default(directory: Directory):
    path = directory(byte_level(), NAMED, chat_template__jinja=CHATML)
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    found = read(path)

    assert found.chat_template == CHATML
    assert "rag" in found.notes[0]


def test_a_template_of_a_processor_is_taken_where_there_is_no_other(directory: Directory):
    processor = {"chat_template": CHATML}

    assert read(directory(byte_level(), NAMED, chat_template__json=processor)).chat_template == CHATML
    settings = NAMED | {"chat_template": "own"}
    assert read(directory(byte_level(), settings, chat_template__json=processor)).chat_template == "own"


@pytest.mark.parametrize("template", ["{% for %}", "{{ x | nothing_like_it }}"])
def test_a_template_that_cannot_be_read_is_left_out_with_a_note(template: str, directory: Directory):
    found = read(directory(byte_level(), NAMED | {"chat_template": template}))

    assert found.chat_template is None
    assert len(found.notes) == 1
    assert found.eos_token_ids == (2,)


@pytest.mark.parametrize("template", ["", " \n", 3])
def test_a_template_without_text_is_none_and_a_note_says_so(template: Any, directory: Directory):
    found = read(directory(byte_level(), NAMED | {"chat_template": template}))

    assert found.chat_template is None
    assert ["default" in note for note in found.notes] == [True]


def test_a_template_file_without_text_leaves_that_of_the_settings(directory: Directory):
    found = read(directory(byte_level(), NAMED | {"chat_template": CHATML}, chat_template__jinja=" \n"))

    assert found.chat_template == CHATML
    assert ["chat_template.jinja" in note for note in found.notes] == [True]


def test_templates_by_name_are_read_as_a_list_of_them_is(directory: Directory):
    found = read(directory(byte_level(), NAMED | {"chat_template": {"default": CHATML, "rag": "rag"}}))

    assert found.chat_template == CHATML
    assert "rag" in found.notes[0]


def test_a_byte_order_mark_is_no_part_of_a_template(directory: Directory):
    found = read(directory(byte_level(), NAMED, chat_template__jinja=f"\ufeff{CHATML}"))

    assert found.chat_template == CHATML


def test_code_of_a_tokenizer_is_not_run_and_a_note_says_so(directory: Directory):
    path = directory(byte_level(), NAMED | {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}})
    (path / "code.py").write_text("raise SystemExit")

    assert "never run" in read(path).notes[0]
