"""Attention against float64, with error bounds that are derived in attention_calls.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from attention_calls import (
    Caches,
    Shape,
    chain_rows,
    exact_context,
    exact_keys,
    qkv_of,
    random_tree,
    run,
    split_heads,
    together,
    tree_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PLAIN = Shape(heads=6, kv_heads=2, head_size=32, rotary_size=32, cache="float32")


@st.composite
def shapes(draw, most_kv_heads=4):
    """Nodes of every kind."""
    head_size = 16 * draw(st.integers(1, 16))
    kv_heads = draw(st.integers(1, most_kv_heads))
    return Shape(
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        head_size=head_size,
        rotary_size=2 * draw(st.integers(0, head_size // 2)),
        cache=draw(st.sampled_from(["float16", "float32"])),
        window=draw(st.sampled_from([0, 0, 1, 17, 64, 700])),
        soft_cap=draw(st.sampled_from([0.0, 0.0, 2.0, 30.0])),
        is_normed=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


def lengths(most):
    """Lengths of contexts, often near the edges of lanes, blocks and ranges."""
    edges = [length for length in (0, 15, 16, 63, 64, 65, 511, 512, 513, 1024, 8192) if length <= most]
    return st.one_of(st.sampled_from(edges), st.integers(0, most))


def random_calls(shape, contexts, rows, is_tree, generator):
    """Caches and rows of several sequences, in any order."""
    caches = Caches(shape, len(contexts), max(contexts) + max(rows))
    calls = []
    for sequence, (length, count) in enumerate(zip(contexts, rows, strict=True)):
        caches.fill(sequence, length, generator)
        qkv = qkv_of(shape, count, generator)
        if is_tree:
            parents, slots = random_tree(generator, count, length)
            calls.append(tree_rows(length, parents, slots, qkv))
        else:
            calls.append(chain_rows([length], np.zeros(count, np.int64), length + np.arange(count), qkv))
    all_rows = together(calls)
    return caches, all_rows.take(generator.permutation(len(all_rows.slots)))


def must_be_near(shape, caches, rows):
    context = run(shape, caches, rows)
    expected, bound = exact_context(shape, caches, rows)
    np.testing.assert_array_less(np.abs(context - expected), bound)


@settings(max_examples=40)
@given(
    shape=shapes(),
    contexts=st.lists(lengths(700), min_size=1, max_size=5),
    most_rows=st.sampled_from([1, 2, 5, 16, 64]),
    is_tree=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_context_is_within_the_bound_of_float64(shape, contexts, most_rows, is_tree, seed):
    generator = np.random.default_rng(seed)
    rows = generator.integers(1, most_rows + 1, len(contexts))
    must_be_near(shape, *random_calls(shape, contexts, rows, is_tree, generator))


@pytest.mark.parametrize("cache", ["float16", "float32"])
@pytest.mark.parametrize("window", [0, 3000])
def test_long_contexts_are_within_the_bound(cache, window):
    shape = Shape(heads=4, kv_heads=2, head_size=48, rotary_size=48, cache=cache, window=window)
    generator = np.random.default_rng(3)
    must_be_near(shape, *random_calls(shape, [8192, 2000], [7, 3], True, generator))


def test_so_many_rows_that_tasks_take_all_ranges_are_within_the_bound():
    shape = Shape(heads=16, kv_heads=2, head_size=16, rotary_size=16)
    generator = np.random.default_rng(4)
    must_be_near(shape, *random_calls(shape, [900, 30], [150, 60], False, generator))
    must_be_near(shape, *random_calls(shape, [900, 30], [150, 60], True, generator))


@pytest.mark.long
@settings(max_examples=1500)
@given(
    shape=shapes(most_kv_heads=8),
    contexts=st.lists(lengths(8192), min_size=1, max_size=16),
    most_rows=st.sampled_from([1, 2, 5, 16, 64]),
    is_tree=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_context_is_within_the_bound_for_every_shape(shape, contexts, most_rows, is_tree, seed):
    generator = np.random.default_rng(seed)
    shorter = [length // max(1, shape.heads * shape.head_size // 512) for length in contexts]
    rows = generator.integers(1, most_rows + 1, len(contexts))
    must_be_near(shape, *random_calls(shape, shorter, rows, is_tree, generator))


@settings(max_examples=25)
@given(shape=shapes(), count=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_caches_hold_the_rounded_keys_and_values(shape, count, seed):
    generator = np.random.default_rng(seed)
    caches, rows = random_calls(shape, [50], [count], True, generator)
    run(shape, caches, rows)
    _, _, values = split_heads(shape, rows.qkv)
    keys, error = exact_keys(shape, rows)
    written_keys = caches.keys_by_slot(0)[:, rows.slots].swapaxes(0, 1).astype(np.float64)
    written_values = caches.values[0][:, rows.slots].swapaxes(0, 1)
    np.testing.assert_array_equal(written_values, values.astype(shape.cache))
    # Rounding to half is off by half a unit: 2^-11 of the value, or 2^-25 where it is subnormal.
    rounding = np.abs(keys) * 2.0**-11 + 2.0**-25 if shape.cache == "float16" else 0
    assert np.all(np.abs(written_keys - keys) <= 1.1 * error + rounding)


def test_a_half_cache_saturates():
    shape = Shape(heads=1, kv_heads=1, head_size=16, rotary_size=0)
    qkv = np.zeros((1, shape.width), np.float32)
    qkv[0, 16:18] = [1e6, -1e6]
    qkv[0, 32:36] = [65519.0, 65520.0, -np.inf, np.inf]
    caches = Caches(shape, 1, 64)
    context = run(shape, caches, chain_rows([0], [0], [0], qkv))
    assert caches.keys_by_slot(0)[0, 0, :2].tolist() == [65504.0, -65504.0]
    assert caches.values[0, 0, 0, :4].tolist() == [65504.0, 65504.0, -65504.0, 65504.0]
    assert context[0, :4].tolist() == [65504.0, 65504.0, -65504.0, 65504.0]


def test_the_only_position_that_a_window_of_one_leaves_is_the_row_itself():
    shape = Shape(heads=6, kv_heads=2, head_size=32, rotary_size=32, cache="float32", window=1)
    generator = np.random.default_rng(5)
    caches, rows = random_calls(shape, [600], [9], True, generator)
    _, _, values = split_heads(shape, rows.qkv)
    context = run(shape, caches, rows).reshape(9, 6, 32)
    np.testing.assert_array_equal(context, np.repeat(values, 3, axis=1))


def test_no_rows_give_no_context():
    caches = Caches(PLAIN, 1, 64)
    context = run(PLAIN, caches, chain_rows([5], [], [], np.zeros((0, PLAIN.width), np.float32)))
    assert context.shape == (0, 6 * 32)


@pytest.mark.parametrize("cache", ["float16", "float32"])
@pytest.mark.parametrize("soft_cap", [0.0, 10.0])
@pytest.mark.parametrize("place", ["query", "key", "value", "cached key"])
def test_nan_reaches_the_rows_that_see_it_and_no_other(cache, soft_cap, place):
    shape = Shape(heads=4, kv_heads=2, head_size=32, rotary_size=16, cache=cache, soft_cap=soft_cap)
    generator = np.random.default_rng(6)
    caches, rows = random_calls(shape, [530], [6], False, generator)
    rows = rows.take(np.argsort(rows.slots))
    before = run(shape, caches.copy(), rows)
    first = {"query": 0, "key": 4 * 32, "value": 6 * 32}
    sees = np.arange(6) >= 3
    if place == "cached key":
        caches.keys[0, :, 1, 20, 3] = np.nan
        sees = np.full(6, True)
    else:
        rows.qkv[3, first[place] : first[place] + 128] = np.nan
    if place == "query":
        sees = np.arange(6) == 3
    after = run(shape, caches, rows)
    np.testing.assert_array_equal(after[~sees], before[~sees])
    assert np.isnan(after[sees]).any(axis=1).all()
    if place != "value":
        assert np.isnan(after[sees][:, :32]).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_heads_with_a_score_of_infinity_are_nan_and_minus_infinity_has_no_weight(value):
    shape = dataclasses.replace(PLAIN, rotary_size=0)
    generator = np.random.default_rng(8)
    caches, rows = random_calls(shape, [100], [3], True, generator)
    caches.keys[:, :, 0, 0, 7] = value
    queries, _, _ = split_heads(shape, rows.qkv)
    context = run(shape, caches, rows).reshape(queries.shape)
    is_infinite = queries[:, :, :1] * value > 0
    assert is_infinite.any()
    np.testing.assert_array_equal(np.isnan(context), np.broadcast_to(is_infinite, context.shape))


@pytest.mark.long
@pytest.mark.parametrize("cache", ["float16", "float32"])
def test_places_beyond_two_to_the_31_elements_are_reached(cache):
    shape = Shape(heads=2, kv_heads=1, head_size=256, rotary_size=256, cache=cache)
    slots = 2**23  # times 256 elements are 2^31; memory that is never touched is never had
    small = Caches(shape, 1, 640)
    generator = np.random.default_rng(9)
    small.fill(0, 600, generator)
    large = small.copy()
    large.keys = np.zeros((2, 1, slots // 64, 256, 64), shape.cache)
    large.values = np.zeros((2, 1, slots, 256), shape.cache)
    large.keys[1, :, :10] = small.keys[0]
    large.values[1, :, :640] = small.values[0]
    parents, own = random_tree(generator, 8, 600)
    near = tree_rows(600, parents, own, qkv_of(shape, 8, generator))
    expected = run(shape, small, near)
    far_slots = own + slots - 700
    far = tree_rows(600, parents, far_slots, near.qkv)
    far = together([tree_rows(0, [-1], np.array([0]), near.qkv[:1]), far])
    np.testing.assert_array_equal(run(shape, large, far)[1:], expected)
