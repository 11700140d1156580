"""Buffers of keys and values: their size, their names, and what is bound to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.engine.cache_memory import NATIVE_LAYOUT, CacheMemory, CacheShape
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.options import SamplingOptions


@pytest.fixture
def cache():
    """Two blocks, 16 slots."""
    return CacheMemory(CacheShape(num_layers=2, num_kv_heads=3, capacity=16, head_size=4))


@pytest.fixture
def native_cache():
    """Two blocks from the fifth on, 100 slots."""
    shape = CacheShape(num_layers=2, num_kv_heads=3, capacity=100, head_size=16, dtype=np.float16, layout=NATIVE_LAYOUT)
    return CacheMemory(shape, first_layer=4)


class Recording:
    """Stands for an IOBinding and keeps the pointers by name."""

    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_ortvalue_input(self, name, value):
        self.inputs[name] = value.data_ptr()

    def bind_ortvalue_output(self, name, value):
        self.outputs[name] = value.data_ptr()


class PresentPointers:
    """Stands for a session and notes after each forward where it wrote its keys and values."""

    def __init__(self, session):
        self.session = session
        self.seen = []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run_with_iobinding(self, binding):
        self.session.run_with_iobinding(binding)
        outputs = zip(self.session.get_outputs(), binding.get_outputs(), strict=True)
        self.seen.append({output.name: value.data_ptr() for output, value in outputs if "present" in output.name})


def test_a_native_cache_has_whole_blocks_of_slots(native_cache):
    assert [buffer.shape for buffer in native_cache.buffers[:2]] == [(1, 3, 2, 16, 64), (1, 3, 128, 16)]
    assert native_cache.num_bytes == 2 * 2 * 3 * 128 * 16 * 2


def test_every_sequence_has_slots_of_its_own():
    shape = CacheShape(num_layers=1, num_kv_heads=3, capacity=16, head_size=4, num_sequences=5)
    assert [buffer.shape for buffer in CacheMemory(shape).buffers] == [(5, 3, 16, 4)] * 2
    assert shape.num_bytes == 2 * 5 * 3 * 16 * 4 * 4


def test_names_begin_with_the_first_block_of_the_graph(native_cache):
    binding = Recording()
    native_cache.bind(binding)
    assert list(binding.outputs) == ["present.4.key", "present.4.value", "present.5.key", "present.5.value"]


def test_every_buffer_begins_with_a_line_of_the_processors_cache(native_cache, cache):
    assert all(buffer.ctypes.data % 64 == 0 for buffer in native_cache.buffers)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_a_cache_takes_the_memory_of_what_is_written():
    import resource  # Windows has none

    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident_bytes()
    cache = CacheMemory(CacheShape(num_layers=8, num_kv_heads=4, capacity=8192, head_size=128, layout=NATIVE_LAYOUT))
    assert cache.num_bytes == 256 << 20
    for values in cache.buffers[1::2]:
        values[:, :, :64] = 1
    # 8 blocks x 4 heads x 32 KiB are written; the rest leaves room for what else the process does meanwhile.
    assert resident_bytes() - before < 16 << 20


def test_size_counts_keys_and_values_of_all_blocks(cache):
    assert cache.num_bytes == 2 * 2 * 3 * 16 * 4 * 4


def test_past_and_present_of_a_block_are_bound_to_one_buffer(cache):
    binding = Recording()
    cache.bind(binding)
    pointers = [buffer.ctypes.data for buffer in cache.buffers]
    parts = ["0.key", "0.value", "1.key", "1.value"]
    assert binding.inputs == {f"past_key_values.{part}": at for part, at in zip(parts, pointers, strict=True)}
    assert binding.outputs == {f"present.{part}": at for part, at in zip(parts, pointers, strict=True)}


def test_a_forward_writes_its_slots_of_the_numpy_buffers_and_no_others(tiny_bundle, target_of):
    target = target_of(tiny_bundle, max_context=32)
    target.forward(ForwardRows.chain(np.arange(5), 0))
    target.cache.keep(range(5))
    before = [buffer.copy() for buffer in target.cache.buffers]
    target.forward(ForwardRows.chain(np.arange(3), 5))
    for old, new in zip(before, target.cache.buffers, strict=True):
        changed = (old != new).any(axis=(0, 1, 3))
        assert np.flatnonzero(changed).tolist() == [5, 6, 7]


def test_200_steps_write_to_the_same_memory(tiny_bundle, target_of, drafters):
    target = target_of(tiny_bundle)
    target.session = PresentPointers(target.session)
    decoder = Decoder(target, drafters.RandomChains(target.vocabulary_size))
    decoder.begin([5, 6, 7], SamplingOptions())
    for step in range(200):
        decoder.next_round(step % 4)
    parts = ["0.key", "0.value", "1.key", "1.value"]
    expected = {f"present.{p}": b.ctypes.data for p, b in zip(parts, target.cache.buffers, strict=True)}
    assert len(target.session.seen) == 201
    assert all(pointers == expected for pointers in target.session.seen)
