"""The short look at a bundle's kernels wherever it is loaded."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime import Bundle, LoadOptions, Model, load_model
from dovetail_ort_runtime.engine.row_invariance import holds_here
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.loading import loaded_bundle


@pytest.fixture
def target(tiny_bundle_portable):
    bundle = Bundle(tiny_bundle_portable)
    return Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, threads=1)


def test_it_holds_for_an_exact_bundle_and_leaves_the_cache_empty(target):
    assert holds_here(target)
    assert target.cache.length == 0


def test_a_kernel_that_depends_on_the_number_of_rows_is_found(target):
    forward = target.forward

    def drifting(rows, **options):
        result = forward(rows, **options)
        result.logits[0, 0] += 1e-6 * (len(rows.token_ids) == 8)  # a single bit or two
        return result

    target.forward = drifting
    assert not holds_here(target)


def test_a_cache_of_two_slots_is_enough(tiny_bundle):
    assert Model(Bundle(tiny_bundle), LoadOptions(max_context=2, threads=1)).exact


def test_a_model_that_is_not_exact_here_says_so_once_and_works(tiny_bundle, monkeypatch):
    monkeypatch.setattr(loaded_bundle, "holds_here", lambda target: False)
    with pytest.warns(UserWarning, match="not exact on this machine"):
        loaded = load_model(tiny_bundle, threads=1)
    assert not loaded.exact
    assert loaded.generate("one two").token_ids
