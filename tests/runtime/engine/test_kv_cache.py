"""Which slots of a KV cache are kept, moved and forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.engine import kv_cache
from dovetail_ort_runtime.engine.cache_memory import NATIVE_LAYOUT, CacheShape
from dovetail_ort_runtime.engine.kv_cache import KVCache, num_reusable


@pytest.fixture
def cache():
    """Two blocks, 16 slots; every slot of every buffer holds its own number."""
    cache = KVCache(CacheShape(num_layers=2, num_kv_heads=3, capacity=16, head_size=4))
    for index, buffer in enumerate(cache.buffers):
        buffer[...] = 100 * index + np.arange(16)[:, None]
    return cache


def slots(cache, index=0):
    """The number that each slot of a buffer holds; all heads and channels hold the same."""
    buffer = cache.buffers[index]
    assert (buffer == buffer[:1, :1, :, :1]).all()
    return (buffer[0, 0, :, 0] - 100 * index).astype(int).tolist()


def test_consecutive_rows_are_kept_where_they_stand(cache):
    cache.length = 10
    cache.keep([0, 1, 2])
    assert cache.length == 13
    for index in range(4):
        assert slots(cache, index) == list(range(16))


def test_rows_with_gaps_are_gathered_after_the_kept_ones_in_every_buffer(cache):
    cache.length = 10
    cache.keep([0, 1, 4])
    assert cache.length == 13
    for index in range(4):
        assert slots(cache, index)[:13] == [*range(10), 10, 11, 14]


def test_gathering_overlapping_rows_copies_each_before_it_is_overwritten(cache):
    cache.length = 2
    cache.keep([1, 2, 3, 5, 6, 9])
    assert slots(cache)[:8] == [0, 1, 3, 4, 5, 7, 8, 11]


def test_keeping_no_row_changes_nothing(cache):
    cache.length = 5
    cache.keep([])
    assert cache.length == 5
    assert slots(cache) == list(range(16))


def test_rewinding_moves_the_length_and_no_memory(cache):
    cache.length = 10
    cache.rewind(4)
    assert cache.length == 4
    assert slots(cache) == list(range(16))


def test_rewinding_never_lengthens(cache):
    cache.length = 4
    cache.rewind(10)
    assert cache.length == 4


@pytest.fixture
def native_cache():
    """Two blocks, 100 slots; every slot of every buffer holds its own number."""
    shape = CacheShape(num_layers=2, num_kv_heads=3, capacity=100, head_size=16, dtype=np.float16, layout=NATIVE_LAYOUT)
    cache = KVCache(shape)
    numbers = np.arange(128)
    for keys, values in zip(cache.buffers[::2], cache.buffers[1::2], strict=True):
        keys[...] = numbers.reshape(2, 1, 64)
        values[...] = numbers[:, None]
    return cache


def test_a_native_cache_has_the_capacity_that_was_asked_for(native_cache):
    assert native_cache.capacity == 100


def test_native_rows_with_gaps_are_gathered_across_blocks(native_cache):
    native_cache.length = 61
    native_cache.keep([0, 2, 3, 6])
    expected = [*range(61), 61, 63, 64, 67]
    for keys, values in zip(native_cache.buffers[::2], native_cache.buffers[1::2], strict=True):
        by_slot = keys.transpose(0, 1, 2, 4, 3).reshape(1, 3, 128, 16)
        for found in (by_slot, values):
            assert (found == found[:1, :1, :, :1]).all()
            assert found[0, 0, :65, 0].tolist() == expected


def test_large_pages_are_asked_for_once_when_the_cache_is_long(monkeypatch):
    asked = []
    monkeypatch.setattr(kv_cache, "use_large_pages", lambda blocks: asked.append(blocks.nbytes))
    cache = KVCache(CacheShape(num_layers=1, num_kv_heads=1, capacity=4096, head_size=16, layout=NATIVE_LAYOUT))
    for _ in range(40):
        cache.keep(range(64))
        assert bool(asked) == (cache.length >= 2048)
    assert asked == [cache.num_bytes // 2] * 2


@pytest.mark.parametrize(
    ("read", "text", "number"),
    [
        ([1, 2, 3], [1, 2, 4, 5], 2),
        ([1, 2, 3], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([], [1], 0),
        ([1], [2], 0),
    ],
)
def test_what_a_text_shares_with_the_tokens_read_is_reusable_but_for_its_last_token(read, text, number):
    assert num_reusable(read, text) == number
