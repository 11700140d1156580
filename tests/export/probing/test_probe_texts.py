"""A target writes the text that a head is measured on."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_export.probing.probe_texts import SHORT_PROMPTS, write_probe_texts
from dovetail_ort_runtime import GenerationOptions, load_model
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError

THINKING = "{% if enable_thinking is defined and not enable_thinking %}{{ 'no thoughts' }}{% endif %}"


@pytest.fixture
def bundle_with_template(damaged, change_manifest):
    """`bundle_with_template(text)`: a bundle with this chat template, or without one."""

    def make(text):
        template = damaged / "chat_template.jinja"
        if text is not None:
            template.write_text(text)

        def change(manifest):
            entry = next(file for file in manifest["files"] if file["path"] == template.name)
            entry["num_bytes"] = template.stat().st_size
            entry["sha256"] = "0" * 64
            if text is None:
                manifest["tokenizer"]["chat_template"] = None

        change_manifest(damaged, change)
        return damaged

    return make


def written(directory, verify="small"):
    """The texts of a bundle's plain target."""
    bundle = Bundle(directory, verify)
    entry = bundle.manifest.target
    return write_probe_texts(bundle, Target(bundle.path(entry.graph), entry))


def names(texts):
    return list(dict.fromkeys(text.name for text in texts))


def test_answers_are_the_targets_own(tiny_bundle):
    texts = written(tiny_bundle)
    assert names(texts) == [SHORT_PROMPTS, "200 tokens of context", "448 tokens of context"]
    model = load_model(tiny_bundle, drafter="none")
    for text in texts:
        prompt = text.token_ids[: text.prompt_length].tolist()
        answer = model.generate(prompt, GenerationOptions(max_new_tokens=len(text.answer))).token_ids
        assert answer == tuple(text.answer)


def test_prompts_have_the_stated_context(tiny_bundle):
    for text in written(tiny_bundle):
        if text.name != SHORT_PROMPTS:
            assert text.prompt_length == pytest.approx(int(text.name.split()[0]), rel=0.1)
        assert len(text.token_ids) <= 512


def test_a_template_that_can_leave_thinking_out_is_asked_to(bundle_with_template, tiny_bundle):
    template = (tiny_bundle / "chat_template.jinja").read_text()
    texts = written(bundle_with_template(template + THINKING), "none")
    assert "without thinking" in names(texts)


def test_a_target_without_a_template_continues_text(bundle_with_template):
    texts = written(bundle_with_template(None), "none")
    assert names(texts)[0] == SHORT_PROMPTS
    assert not any(1 in text.token_ids[: text.prompt_length] for text in texts)  # no <|im_start|>


def test_a_target_that_writes_nothing_is_refused(damaged, change_manifest, tiny_bundle):
    def end_everywhere(manifest):
        manifest["generation"]["eos_token_ids"] = list(range(384))

    change_manifest(damaged, end_everywhere)
    with pytest.raises(InputError, match="too few to measure a head"):
        written(damaged)


def test_features_are_those_of_all_tokens_but_the_last(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry)
    for text in write_probe_texts(bundle, target):
        assert np.array_equal(text.features, target.read(text.token_ids[:-1]).hidden_states)
