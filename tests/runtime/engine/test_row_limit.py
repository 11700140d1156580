"""The rows of a forward that memory holds, and what is told where it holds none."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine import draft_graph, first_blocks
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.row_invariance import run_in_chunks
from dovetail_ort_runtime.engine.row_limit import rows_that_fit
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.errors import UnavailableError


def passes_of(largest):
    """`run(rows)` fails beyond the largest number; `run.sizes` are those that were tried."""

    def run(rows):
        run.sizes.append(rows)
        if rows > largest:
            raise UnavailableError(f"memory must hold a forward of {rows} rows")

    run.sizes = []
    return run


@pytest.mark.parametrize(("largest", "rows"), [(1000, 64), (96, 64), (95, 32), (9, 4), (2, 1)])
def test_as_many_rows_a_pass_as_fit_with_half_as_many_more(largest, rows):
    run = passes_of(largest)
    assert rows_that_fit(64, 1, 512, run) == rows
    longest = rows + max(rows // 2, 1)
    assert run.sizes[-rows - 2 :] == [longest, *range(rows, 0, -1), longest]


def test_what_stays_bound_for_short_passes_is_there_while_the_others_are_tried():
    bound = []
    held = []

    class Bound:
        def __init__(self, size):
            self.size = size
            bound.append(size)

        def __del__(self):
            bound.remove(self.size)

    def run(size):
        held.append(sorted(bound))
        return Bound(size)

    assert rows_that_fit(20, 1, 512, run) == 20
    assert held[-1][:16] == list(range(1, 17))
    assert not bound


def test_fewer_than_the_least_rows_are_refused_with_the_last_reason():
    run = passes_of(9)
    with pytest.raises(UnavailableError, match="a forward of 12 rows"):
        rows_that_fit(64, 8, 512, run)


def test_no_pass_is_longer_than_the_cache():
    run = passes_of(1000)
    assert rows_that_fit(64, 1, 16, run) == 64
    assert max(run.sizes) == 16


class SmallDevice:
    """A session, as on a device whose memory holds so many rows a forward and no more."""

    def __init__(self, session, rows):
        self._session, self._rows = session, rows

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run_with_iobinding(self, binding):
        if binding.get_outputs()[0].shape()[1] > self._rows:
            raise RuntimeError(
                "BFCArena::AllocateRawInternal Available memory of 7 is smaller than requested bytes of 9"
            )
        self._session.run_with_iobinding(binding)


@pytest.fixture
def small_device(monkeypatch):
    """`small_device(rows)`: the CPU, in the place of such a device."""

    def install(rows):
        for module in (draft_graph, first_blocks):
            monkeypatch.setattr(module, "CPU", "another device")
            monkeypatch.setattr(module, "open_session", lambda *a, **k: SmallDevice(open_session(*a, **k), rows))

    return install


def test_a_limit_bounds_the_rows_of_the_drafters_forwards(small_device, tiny_drafting_bundle):
    bundle = Bundle(tiny_drafting_bundle)
    entry = bundle.manifest.drafter
    settings = {"capacity": 512, "threads": 1, "vram_limit": 10**9}
    small_device(9)
    model = DraftGraph(bundle.path(entry.graph), entry, **settings)
    assert model.max_rows == 4  # six fit, twelve do not
    assert model.cache.length == 0
    small_device(1)
    with pytest.raises(UnavailableError, match="Available memory of 7 is smaller than requested bytes of 9; load with"):
        DraftGraph(bundle.path(entry.graph), entry, **settings)


def test_a_limit_bounds_the_rows_of_a_cut_target(small_device, target_of, tiny_cut_bundle):
    tokens = np.arange(3, 43)
    expected = run_in_chunks(target_of(tiny_cut_bundle), tokens, 8)[0]
    small_device(12)
    target = target_of(tiny_cut_bundle, vram_limit=10**9)
    assert target.max_rows == 8
    np.testing.assert_array_equal(run_in_chunks(target, tokens, target.max_rows)[0], expected)
    small_device(11)
    with pytest.raises(UnavailableError, match="Available memory of 7 is smaller than requested bytes of 9; load with"):
        target_of(tiny_cut_bundle, vram_limit=10**9)
