"""Settings of a loaded model are checked before anything of it is read."""

from __future__ import annotations

import dataclasses

import pytest

from dovetail_ort_runtime import ChainShape, InputError, LoadOptions, PromptLookup, TreeShape, load_model
from dovetail_ort_runtime.loading.load_options import DRAFTERS

TREE = TreeShape(num_rows=7, num_expansions=2, width=3)


class OfNothing(PromptLookup):
    """Reads what no target gives."""

    reads = "embeddings"


@pytest.mark.parametrize("name", [name for name in DRAFTERS if name != "lm"])
def test_every_drafter_but_lm_needs_no_other_option(name):
    assert LoadOptions(drafter=name).drafter == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_context": 1}, "max_context must be 2 or more, got 1"),
        ({"threads": 0}, "threads must be 1 or more, got 0"),
        ({"drafter": "eagle"}, "the drafter must be one of auto, dgf, lm, lookup, none, got 'eagle'"),
        ({"drafter": None}, "the drafter must be a name or a Drafter, got an object of NoneType"),
        ({"drafter": "lm"}, "needs the bundle of a smaller model"),
        ({"drafter": "lookup", "draft_bundle": "there"}, "leave out the bundle or the drafter lookup"),
        pytest.param(
            {"drafter": PromptLookup(), "draft_bundle": "there"},
            "leave out the bundle or the drafter PromptLookup",
            id="an object as the drafter",
        ),
        pytest.param(
            {"drafter": OfNothing()},
            "what the drafter reads must be one of hidden_states, drafter_features, got 'embeddings'",
            id="a drafter that reads what there is not",
        ),
        ({"draft_bundle": "there", "draft_shape": TREE}, "drafts chains only"),
        ({"draft_bundle": "there", "drafter_device": "cuda"}, "runs on the CPU only"),
        ({"draft_shape": 4}, "draft_shape must be a ChainShape or a TreeShape, got an object of int"),
        ({"drafter_device": "tpu"}, "the drafter's device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"target_layers_on_gpu": "all"}, "target_layers_on_gpu must be auto or a number, got 'all'"),
        ({"vram_limit": 0}, "vram_limit must be 1 or more, got 0"),
        ({"vram_limit": "much"}, "a size must be a number of bytes above 0 such as 3GB, got 'much'"),
    ],
    ids=str,
)
def test_an_option_out_of_bounds_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        LoadOptions(**settings)


@pytest.mark.parametrize(("given", "num_bytes"), [(None, None), (1000, 1000), ("3kB", 3000), ("1KiB", 1024)])
def test_a_limit_of_gpu_memory_is_read_as_bytes(given, num_bytes):
    assert LoadOptions(vram_limit=given).vram_bytes == num_bytes


def test_a_shape_goes_with_the_smaller_model():
    chain = ChainShape.fixed(3)
    assert LoadOptions(drafter="lm", draft_bundle="there", draft_shape=chain).draft_shape == chain


def test_loading_with_an_unknown_setting_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError) as refusal:
        load_model(tmp_path, colour="red")
    message = str(refusal.value)
    assert "colour" in message
    assert all(field.name in message for field in dataclasses.fields(LoadOptions))
    assert "verify" in message


def test_options_are_checked_before_the_bundle_is_opened(tmp_path):
    with pytest.raises(InputError, match="threads must be 1 or more"):
        load_model(tmp_path / "nowhere", threads=0)
