"""One limit for two sessions."""

from __future__ import annotations

import shutil

import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.engine.vram_share import VramShare
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.loading import draft_models
from dovetail_ort_runtime.loading.load_options import LoadOptions


@pytest.mark.parametrize(
    ("limit", "front_bytes", "drafter_bytes", "front", "drafter"),
    [
        (None, 300, 100, None, None),
        (1000, 300, 0, 1000, 1000),
        (1000, 0, 100, 1000, 1000),
        (1000, 300, 100, 600, 400),
        (401, 300, 100, 300, 101),
        (400, 300, 100, 300, 100),
    ],
)
def test_both_have_their_weights_and_half_of_the_rest(limit, front_bytes, drafter_bytes, front, drafter):
    share = VramShare.of(limit, front_bytes=front_bytes, drafter_bytes=drafter_bytes)
    assert (share.front, share.drafter) == (front, drafter)


def test_a_limit_that_does_not_hold_both_is_refused():
    with pytest.raises(InputError, match="300 bytes of the target's first blocks and 100 of the drafter"):
        VramShare.of(399, front_bytes=300, drafter_bytes=100)


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
