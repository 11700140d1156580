"""Any prompt and any settings give an answer or an error of the caller."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.model import load_model
from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions

any_text = st.text(st.characters(), max_size=60)
any_number = st.floats() | st.integers(-3, 10**30) | st.sampled_from([0.0, 1e-320, 1e-5, 0.5, 1.0, 2.0, 1e30, 1e308])
any_int = st.integers(-2, 3) | st.sampled_from([400, 10**6, 2**63, 10**30])
messages = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name"]), any_text | st.none() | st.integers(), max_size=3),
    max_size=3,
)
token_ids = st.lists(st.integers(-2, 390) | st.just(2**70), max_size=600)


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return load_model(tiny_bundle, threads=1, drafter="lookup", max_context=128)


def answer_or_refuse(model, prompt, options):
    token_ids, message = [], ""
    try:
        token_ids = model.generate(prompt, options()).token_ids
    except InputError as error:
        message = str(error)
    assert all(0 <= token_id < model.manifest.target.vocabulary_size for token_id in token_ids)
    assert "\n" not in message


@given(any_text | messages | token_ids)
def test_any_prompt_is_answered_or_refused(model, prompt):
    answer_or_refuse(model, prompt, lambda: GenerationOptions(max_new_tokens=3))


@given(
    st.fixed_dictionaries(
        {"seed": st.integers(-1, 2**65)},
        optional={
            **dict.fromkeys(("repetition_penalty", "temperature", "top_p", "min_p"), any_number),
            "top_k": any_int,
        },
    )
)
@hypothesis_settings(max_examples=300)
def test_any_sampling_settings_are_used_or_refused(model, sampling):
    answer_or_refuse(
        model, "A dovetail joint", lambda: GenerationOptions(max_new_tokens=3, sampling=SamplingOptions(**sampling))
    )


@given(any_int, any_int, st.lists(any_text, max_size=3))
def test_any_limits_are_used_or_refused(model, max_new_tokens, max_draft_tokens, stop):
    def options():
        return GenerationOptions(max_new_tokens=max_new_tokens, max_draft_tokens=max_draft_tokens, stop=tuple(stop))

    answer_or_refuse(model, "tails and pins and tails and", options)


def test_not_a_number_is_no_setting():
    for name in ("repetition_penalty", "temperature", "top_p", "min_p"):
        with pytest.raises(InputError, match=f"{name} must be"):
            SamplingOptions(**{name: math.nan})
