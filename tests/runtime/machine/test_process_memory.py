"""The hint to the kernel: which memory it concerns, and that the kernel takes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dovetail_ort_runtime.machine import process_memory
from dovetail_ort_runtime.machine.process_memory import HUGE_PAGE_BYTES, gained_regions, huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.parametrize(
    ("before", "after", "gained"),
    [
        ([(10, 20)], [(10, 30), (50, 60)], [(20, 30), (50, 60)]),
        ([(10, 20), (30, 40)], [(5, 45)], [(5, 10), (20, 30), (40, 45)]),
        ([(10, 20)], [(10, 20)], []),
        ([(10, 20)], [(12, 15)], []),
        ([], [(1, 2)], [(1, 2)]),
    ],
)
def test_only_memory_that_was_gained_is_advised(before, after, gained):
    assert gained_regions(before, after) == gained


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="this kernel offers no transparent huge pages"
)
def test_memory_gained_within_the_block_stands_on_huge_pages():
    # In a process of its own: the test runner's memory has huge pages from elsewhere.
    script = (
        "import mmap\n"
        "from dovetail_ort_runtime.machine.process_memory import huge_pages\n"
        "def huge():\n"
        "    lines = open('/proc/self/smaps_rollup').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('AnonHugePages'))\n"
        "before = huge()\n"
        "with huge_pages():\n"
        "    memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "    for page in range(0, len(memory), 4096):\n"
        "        memory[page] = 1\n"
        "print(huge() - before)\n"
    )
    gained = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    # All but the ends that are not aligned, if the machine has that much memory in one piece; half of it is plenty.
    assert int(gained) * 1024 >= 32 << 20


def test_contents_are_untouched():
    with huge_pages():
        values = np.arange(3 * HUGE_PAGE_BYTES // 8)
    assert np.array_equal(values, np.arange(3 * HUGE_PAGE_BYTES // 8))


def test_where_proc_is_not_mounted_the_hint_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(process_memory, "_MAPS", tmp_path / "proc" / "self" / "maps")
    with huge_pages():
        values = np.arange(3 * HUGE_PAGE_BYTES // 8)
    assert values[-1] == values.size - 1
