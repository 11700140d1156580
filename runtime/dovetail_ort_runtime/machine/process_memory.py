"""Memory of this process: large pages for weights, small ones for sparse arrays, and memory given back.

It knows no model.
"""

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
_MADV_COLLAPSE: Final = 25  # since Linux 6.1: at once, and for pages that are there already

Region = tuple[int, int]


@contextmanager
def huge_pages() -> Iterator[None]:
    """Ask Linux for pages of 2 MiB instead of 4 KiB for the anonymous memory that is gained within the block.

    Every forward reads all weights. With small pages it spends a good part of its time on looking up addresses.
    """
    before = _anonymous_regions()
    yield
    with suppress(OSError, AttributeError):
        _advise(gained_regions(before, _anonymous_regions()))


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros whose memory comes in small pages, each when it is first written.

    numpy asks for large pages. A few numbers far from each other then take megabytes, which are cleared first.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, num_bytes), dtype=dtype).reshape(shape)


def use_large_pages(array: NDArray[Any]) -> None:
    """Ask Linux for large pages for an array, including what is written already."""
    with suppress(OSError, AttributeError):
        _advise([(array.ctypes.data, array.ctypes.data + array.nbytes)])


def return_freed_memory() -> None:
    """Let the C library return freed memory, which is hundreds of megabytes after a model was closed."""
    with suppress(AttributeError, OSError, TypeError):  # a C library without malloc_trim
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
    """Address ranges of private writable memory without a file, ascending; empty on other systems than Linux."""
    if sys.platform != "linux":
        return []
    try:
        maps = _MAPS.read_text()
    except OSError:  # /proc is not mounted
        return []
    # address perms offset device inode [path]
    found = re.findall(r"^(\w+)-(\w+) rw-p \S+ \S+ 0\b", maps, re.MULTILINE)
    return [(int(start, 16), int(end, 16)) for start, end in found]


def gained_regions(before: list[Region], after: list[Region]) -> list[Region]:
    """Parts of `after` that no range of `before` covers: of (10, 30), with (10, 20) before, it is (20, 30)."""
    found = []
    for start, end in after:
        for covered_start, covered_end in before:
            if covered_end <= start or covered_start >= end:
                continue
            if covered_start > start:
                found.append((start, covered_start))
            start = max(start, covered_end)
        if start < end:
            found.append((start, end))
    return found
