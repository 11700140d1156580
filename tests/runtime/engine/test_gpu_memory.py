"""A GPU's memory: what each of two sessions may take, and how many rows of a forward it holds."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.engine import draft_graph, first_blocks
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.gpu_memory import VramShare, rows_that_fit
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.errors import InputError, UnavailableError
from dovetail_ort_runtime.loading import draft_models
from dovetail_ort_runtime.loading.load_options import LoadOptions


@pytest.mark.parametrize(
    ("limit", "first_blocks_bytes", "drafter_bytes", "first_blocks", "drafter"),
    [
        (None, 300, 100, None, None),
        (1000, 300, 0, 1000, 1000),
        (1000, 0, 100, 1000, 1000),
        (1000, 300, 100, 600, 400),
        (401, 300, 100, 300, 101),
        (400, 300, 100, 300, 100),
    ],
)
def test_both_have_their_weights_and_half_of_the_rest(limit, first_blocks_bytes, drafter_bytes, first_blocks, drafter):
    share = VramShare.of(limit, first_blocks_bytes=first_blocks_bytes, drafter_bytes=drafter_bytes)
    assert (share.first_blocks, share.drafter) == (first_blocks, drafter)


def test_a_limit_that_does_not_hold_both_is_refused():
    with pytest.raises(InputError, match="300 bytes of the target's first blocks and 100 of the drafter"):
        VramShare.of(399, first_blocks_bytes=300, drafter_bytes=100)


@pytest.mark.parametrize(
    ("drafter", "device", "has_cuda", "on_gpu"),
    [
        ("auto", "auto", True, True),
        ("dgf", "cuda", True, True),
        ("auto", "auto", False, False),
        ("auto", "cpu", True, False),
        ("lookup", "auto", True, False),
        (PromptLookup(), "auto", True, False),
    ],
)
def test_the_bytes_of_a_drafter_count_where_it_goes_to_the_gpu(
    tiny_bundle, tiny_head, tmp_path, monkeypatch, drafter, device, has_cuda, on_gpu
):
    from dovetail_ort_export.attach import attach_drafter

    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    attach_drafter(tmp_path / "bundle", tiny_head(tiny_bundle), precision="fp16")
    bundle = Bundle(tmp_path / "bundle")
    entry = bundle.manifest.drafter
    weights = sum(file.num_bytes for file in bundle.manifest.files if file.path.startswith(entry.graph))
    cache = 2 * entry.num_layers * entry.num_kv_heads * 64 * entry.head_size * 2
    monkeypatch.setattr(draft_models, "has_cuda", lambda: has_cuda)
    found = draft_models.head_bytes_on_gpu(bundle, LoadOptions(drafter=drafter, drafter_device=device), 64)
    assert found == (weights + cache if on_gpu else 0)


def forwards_of(largest):
    """`run(rows)` fails beyond the largest number; `run.sizes` are those that were tried."""

    def run(rows):
        run.sizes.append(rows)
        if rows > largest:
            raise UnavailableError(f"memory must hold a forward of {rows} rows")

    run.sizes = []
    return run


@pytest.mark.parametrize(("largest", "rows"), [(1000, 64), (96, 64), (95, 32), (9, 4), (2, 1)])
def test_as_many_rows_as_fit_with_half_as_many_more(largest, rows):
    run = forwards_of(largest)
    assert rows_that_fit(64, 1, 512, run) == rows
    longest = rows + max(rows // 2, 1)
    assert run.sizes[-rows - 2 :] == [longest, *range(rows, 0, -1), longest]


def test_what_stays_bound_for_short_forwards_is_there_while_the_others_are_tried():
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
    run = forwards_of(9)
    with pytest.raises(UnavailableError, match="a forward of 12 rows"):
        rows_that_fit(64, 8, 512, run)


def test_no_forward_is_longer_than_the_cache():
    run = forwards_of(1000)
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
    """`small_device(rows)`: the CPU, instead of such a device."""

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
    expected = target_of(tiny_cut_bundle).read(tokens, rows=8).logits
    small_device(12)
    target = target_of(tiny_cut_bundle, vram_limit=10**9)
    assert target.max_rows == 8
    np.testing.assert_array_equal(target.read(tokens).logits, expected)
    small_device(11)
    with pytest.raises(UnavailableError, match="Available memory of 7 is smaller than requested bytes of 9; load with"):
        target_of(tiny_cut_bundle, vram_limit=10**9)
