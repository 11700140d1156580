"""A row's bits are those of its path, decoded token by token: whatever stands beside it, and wherever it lies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attention_calls
import numpy as np
import pytest
from attention_calls import (
    Caches,
    Shape,
    chain_rows,
    path_of,
    qkv_of,
    random_tree,
    run,
    together,
    tree_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail_ort_runtime import kernels

SHAPES = (
    Shape(heads=9, kv_heads=3, head_size=64, rotary_size=64),
    Shape(heads=9, kv_heads=3, head_size=64, rotary_size=64, cache="float32"),
    Shape(heads=8, kv_heads=1, head_size=16, rotary_size=10, cache="float32", soft_cap=4.0),
    Shape(heads=3, kv_heads=3, head_size=80, rotary_size=20, is_normed=True),
    Shape(heads=4, kv_heads=2, head_size=32, rotary_size=32, window=30),
    Shape(heads=14, kv_heads=2, head_size=48, rotary_size=48, cache="float32", window=520, is_normed=True),
    Shape(heads=2, kv_heads=1, head_size=256, rotary_size=128, soft_cap=30.0),
)
LENGTHS = st.sampled_from([0, 1, 14, 17, 60, 64, 200, 500, 511, 512, 700, 1020])
SEEDS = st.integers(0, 2**32 - 1)


def must_be_equal(first, second):
    """Bits, so that -0 is not 0; NaN equals nothing, since no test here expects it."""
    assert not np.isnan(first).any()
    np.testing.assert_array_equal(first.view(np.int32), second.view(np.int32))


def filled(shape, length, slots, generator):
    caches = Caches(shape, 1, slots)
    caches.fill(0, length, generator)
    return caches


def decode(shape, caches, length, qkv):
    """Contexts of tokens that are decoded one after the other."""
    contexts = [
        run(shape, caches, chain_rows([length + i], [0], [length + i], qkv[i : i + 1]), threads=1)
        for i in range(len(qkv))
    ]
    return np.concatenate(contexts)


def leaves_of(parents):
    return sorted(set(range(len(parents))) - set(parents.tolist()))


@settings(max_examples=40)
@given(
    shape=st.sampled_from(SHAPES),
    length=LENGTHS,
    count=st.sampled_from([1, 2, 5, 16, 40]),
    spare=st.booleans(),
    seed=SEEDS,
)
def test_every_row_of_a_tree_has_the_bits_of_its_path(shape, length, count, spare, seed):
    generator = np.random.default_rng(seed)
    prefix = filled(shape, length, length + count, generator)
    parents, slots = random_tree(generator, count, length)
    qkv = qkv_of(shape, count, generator)
    rows = tree_rows(length, parents, slots, qkv, width=count + 3 if spare else 0)
    order = generator.permutation(count)
    contexts = np.empty((count, shape.heads * shape.head_size), np.float32)
    contexts[order] = run(shape, prefix.copy(), rows.take(order))
    for leaf in leaves_of(parents):
        path = path_of(parents, leaf)
        must_be_equal(decode(shape, prefix.copy(), length, qkv[path]), contexts[path])


@settings(max_examples=20)
@given(shape=st.sampled_from(SHAPES), length=LENGTHS, count=st.sampled_from([3, 8, 20]), seed=SEEDS)
def test_after_an_accepted_side_branch_tokens_have_the_bits_of_the_baseline(shape, length, count, seed):
    generator = np.random.default_rng(seed)
    baseline = filled(shape, length, length + count + 4, generator)
    speculative = baseline.copy()
    parents, slots = random_tree(generator, count, length)
    qkv = qkv_of(shape, count + 3, generator)
    run(shape, speculative, tree_rows(length, parents, slots, qkv[:count]))
    path = path_of(parents, int(generator.integers(count)))
    speculative.move(0, slots[path], length)
    decode(shape, baseline, length, qkv[path])
    end = length + len(path)
    np.testing.assert_array_equal(speculative.keys_by_slot(0)[:, :end], baseline.keys_by_slot(0)[:, :end])
    np.testing.assert_array_equal(speculative.values[0, :, :end], baseline.values[0, :, :end])
    must_be_equal(decode(shape, speculative, end, qkv[count:]), decode(shape, baseline, end, qkv[count:]))


@settings(max_examples=20)
@given(shape=st.sampled_from(SHAPES), length=LENGTHS, count=st.sampled_from([3, 8, 20]), seed=SEEDS)
def test_a_tree_that_grows_level_by_level_has_the_bits_of_the_whole_tree(shape, length, count, seed):
    generator = np.random.default_rng(seed)
    prefix = filled(shape, length, length + count, generator)
    parents, slots = random_tree(generator, count, length)
    rows = tree_rows(length, parents, slots, qkv_of(shape, count, generator))
    expected = run(shape, prefix.copy(), rows)
    growing = prefix.copy()
    for depth in range(length, int(rows.position_ids.max()) + 1):
        level = np.flatnonzero(rows.position_ids == depth)
        must_be_equal(run(shape, growing, rows.take(level)), expected[level])


@settings(max_examples=30)
@given(
    shape=st.sampled_from(SHAPES),
    contexts=st.lists(LENGTHS, min_size=2, max_size=6),
    is_tree=st.booleans(),
    seed=SEEDS,
)
def test_sequences_have_the_same_bits_alone_and_in_any_company(shape, contexts, is_tree, seed):
    generator = np.random.default_rng(seed)
    all_slots = max(contexts) + 20
    company = Caches(shape, len(contexts), all_slots)
    calls = []
    alone = []
    for sequence, length in enumerate(contexts):
        company.fill(sequence, length, generator)
        count = int(generator.integers(1, 20))
        qkv = qkv_of(shape, count, generator)
        if is_tree:
            call = tree_rows(length, *random_tree(generator, count, length), qkv)
        else:
            call = chain_rows([length], np.zeros(count, np.int64), length + np.arange(count), qkv)
        own = Caches(shape, 1, all_slots)
        own.keys[0] = company.keys[sequence]
        own.values[0] = company.values[sequence]
        alone.append(run(shape, own, call))
        calls.append(call)
    rows = together(calls)
    order = generator.permutation(len(rows.slots))
    must_be_equal(run(shape, company, rows.take(order)), np.concatenate(alone)[order])


@settings(max_examples=20)
@given(shape=st.sampled_from(SHAPES), length=LENGTHS, count=st.sampled_from([2, 30, 130]), seed=SEEDS)
def test_a_prefill_has_the_same_bits_however_it_is_cut(shape, length, count, seed):
    generator = np.random.default_rng(seed)
    whole = filled(shape, length, length + count, generator)
    pieces = whole.copy()
    qkv = qkv_of(shape, count, generator)
    positions = length + np.arange(count)
    sequence_ids = np.zeros(count, np.int64)
    expected = run(shape, whole, chain_rows([length], sequence_ids, positions, qkv))
    done = 0
    while done < count:
        end = done + int(generator.integers(1, count - done + 1))
        piece = chain_rows([length + done], sequence_ids[done:end], positions[done:end], qkv[done:end])
        must_be_equal(run(shape, pieces, piece), expected[done:end])
        done = end
    np.testing.assert_array_equal(
        pieces.keys_by_slot(0)[:, : length + count], whole.keys_by_slot(0)[:, : length + count]
    )


def test_a_tree_in_logical_order_has_the_bits_of_the_chain():
    shape = SHAPES[0]
    generator = np.random.default_rng(1)
    prefix = filled(shape, 505, 525, generator)
    qkv = qkv_of(shape, 20, generator)
    slots = 505 + np.arange(20)
    chain = run(shape, prefix.copy(), chain_rows([505], np.zeros(20, np.int64), slots, qkv))
    must_be_equal(run(shape, prefix.copy(), tree_rows(505, np.arange(-1, 19), slots, qkv)), chain)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("length", "count"), [(3, 1), (250, 6), (1500, 1), (1500, 90)])
def test_one_to_eight_threads_give_the_same_bits(shape, length, count):
    generator = np.random.default_rng(2)
    prefix = filled(shape, length, length + count, generator)
    rows = tree_rows(length, *random_tree(generator, count, length), qkv_of(shape, count, generator))
    expected = run(shape, prefix.copy(), rows, threads=1)
    for threads in (2, 3, 8):
        must_be_equal(run(shape, prefix.copy(), rows, threads=threads), expected)


def test_so_many_rows_that_tasks_take_all_ranges_give_the_bits_of_few():
    shape = Shape(heads=16, kv_heads=2, head_size=16, rotary_size=16)
    generator = np.random.default_rng(3)
    whole = filled(shape, 900, 1100, generator)
    pieces = whole.copy()
    qkv = qkv_of(shape, 200, generator)
    positions = 900 + np.arange(200)
    expected = run(shape, whole, chain_rows([900], np.zeros(200, np.int64), positions, qkv))
    for first in range(0, 200, 8):
        piece = slice(first, first + 8)
        rows = chain_rows([900 + first], np.zeros(8, np.int64), positions[piece], qkv[piece])
        must_be_equal(run(shape, pieces, rows), expected[piece])


@pytest.mark.parametrize("level", kernels.levels())
def test_every_level_gives_the_same_bits(level):
    printed = subprocess.run(
        [sys.executable, Path(attention_calls.__file__)],
        env={**os.environ, "DOVETAIL_KERNELS": level},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == attention_calls.bits_of_every_kind()
