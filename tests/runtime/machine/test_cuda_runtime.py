"""What CUDA's runtime is asked, by a stand-in for it."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace

import numpy as np
import pytest

from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.machine import cuda_runtime
from dovetail_ort_runtime.machine.cuda_runtime import vram_in_use


@pytest.mark.parametrize(("status", "in_use"), [(0, 5 << 30), (35, None)])
def test_the_memory_in_use_of_a_gpu_is_what_the_cuda_runtime_says(monkeypatch, status, in_use):
    """None where it has no driver, status 35."""

    def memory(free, total):
        free._obj.value, total._obj.value = 3 << 30, 8 << 30
        return status

    monkeypatch.setattr(cuda_runtime, "load_runtime", lambda: SimpleNamespace(cudaMemGetInfo=memory))
    assert vram_in_use() == in_use


class HostMemory:
    """The two calls of the CUDA runtime that give and take page-locked memory."""

    def __init__(self, status=0):
        self.status, self.held = status, {}
        self.cudaGetErrorString = lambda status: b"out of memory"

    def cudaMallocHost(self, pointer, size):  # noqa: N802  CUDA's name
        block = ctypes.create_string_buffer(b"x" * size.value, size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.held[pointer._obj.value] = block
        return self.status

    def cudaFreeHost(self, pointer):  # noqa: N802  CUDA's name
        del self.held[pointer.value]


def test_page_locked_memory_is_zero_and_given_back_with_the_last_array_that_reads_it(monkeypatch):
    memory = HostMemory()
    monkeypatch.setattr(cuda_runtime, "load_runtime", lambda: memory)
    array = cuda_runtime.page_locked_zeros((2, 3), np.float32)
    np.testing.assert_array_equal(array, np.zeros((2, 3), np.float32))
    row = array[1]
    del array
    gc.collect()
    assert len(memory.held) == 1
    row[:] = 5
    del row
    gc.collect()
    assert not memory.held


def test_a_system_without_memory_to_lock_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(cuda_runtime, "load_runtime", lambda: HostMemory(status=2))
    with pytest.raises(UnavailableError, match="page-locked memory of 24 bytes for the GPU: out of memory; close"):
        cuda_runtime.page_locked_zeros((2, 3), np.float32)
