"""Memory of the host is shared by forwards of all sizes."""

from __future__ import annotations

import numpy as np

from dovetail_ort_runtime.engine import host_buffers
from dovetail_ort_runtime.engine.host_buffers import HostBuffers


def test_forwards_of_all_sizes_share_memory_that_is_taken_a_few_times_only(monkeypatch):
    taken = []

    def zeros(shape, dtype):
        taken.append(shape)
        return np.zeros(shape, dtype)

    monkeypatch.setattr(host_buffers, "page_locked_zeros", zeros)
    buffers = HostBuffers("cuda")
    first = buffers.array("input_ids", (1, 1), np.int64)
    first[:] = 7
    for size in (5, 64, 3, 17, 64, 9, 1):
        array = buffers.array("input_ids", (1, size), np.int64)
        assert array.shape == (1, size)
        assert array.flags.c_contiguous
    assert taken == [(1,), (8,), (64,)]
    assert np.shares_memory(array, buffers.array("input_ids", (2, 2), np.int64))
    assert not np.shares_memory(array, buffers.array("position_ids", (2, 2), np.int64))
    assert first.tolist() == [[7]]
    assert buffers.array("total_sequence_length", (), np.int32).shape == ()
