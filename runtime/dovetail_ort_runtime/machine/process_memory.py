"""Large pages for weights, and memory given back."""

from __future__ import annotations

import ctypes
import math
import mmap
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

HUGE_PAGE_BYTES: Final = 2 << 20
_MAPS: Final = Path("/proc/self/maps")
_MADV_HUGEPAGE: Final = 14
_MADV_COLLAPSE: Final = 25  # Linux 6.1: at once, and what is there already

Region = tuple[int, int]


@contextmanager
def huge_pages() -> Iterator[None]:
    """Ask Linux to hold the anonymous memory that is gained within the block in pages of 2 MiB instead of 4 KiB.

    Decoding streams all weights once a step, and spends a good part of that on looking up the addresses of small pages.
    """
    before = _anonymous_regions()
    yield
    with suppress(OSError, AttributeError):
        _advise(_gained(before, _anonymous_regions()))


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array whose memory comes in small pages, each as it is first written.

    numpy asks for large pages, with which a few numbers far from each other take megabytes, all to be cleared first.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, num_bytes), dtype=dtype).reshape(shape)


def use_large_pages(array: NDArray[Any]) -> None:
    """Ask Linux to hold an array in large pages from now on, what is there already included."""
    with suppress(OSError, AttributeError):
        _advise([(array.ctypes.data, array.ctypes.data + array.nbytes)])


def return_freed_memory() -> None:
    """Let the C library return what it keeps for later, hundreds of megabytes of an unloaded model."""
    with suppress(AttributeError, OSError, TypeError):  # another library
        ctypes.CDLL(None).malloc_trim(0)


def _advise(regions: list[Region]) -> None:
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in regions:
        first = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        last = end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        if first < last:
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                madvise(first, last - first, advice)


def _anonymous_regions() -> list[Region]:
    """Address ranges of private writable memory without a file behind it, ascending; empty where nothing tells."""
    if sys.platform != "linux":
        return []
    try:
        maps = _MAPS.read_text()
    except OSError:  # /proc is not mounted
        return []
    # address perms offset device inode [path]
    found = re.findall(r"^(\w+)-(\w+) rw-p \S+ \S+ 0\b", maps, re.MULTILINE)
    return [(int(start, 16), int(end, 16)) for start, end in found]


def _gained(before: list[Region], after: list[Region]) -> list[Region]:
    """The parts of `after` that no range of `before` covers; of (10, 30), with (10, 20) before, (20, 30)."""
    gained = []
    for start, end in after:
        for covered_start, covered_end in before:
            if covered_end <= start or covered_start >= end:
                continue
            if covered_start > start:
                gained.append((start, covered_start))
            start = max(start, covered_end)
        if start < end:
            gained.append((start, end))
    return gained
