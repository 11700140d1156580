"""Which device a load takes, how much of its memory, and what it says where it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.cache_memory import CacheShape

pytestmark = pytest.mark.long

NO_DEVICE = [
    pytest.param({"CUDA_VISIBLE_DEVICES": ""}, "no CUDA-capable device is detected", id="device hidden"),
    pytest.param({"STAND_IN_DRIVER": 12040}, "got one for CUDA 12.4", id="old driver"),
    pytest.param({"LD_LIBRARY_PATH": ""}, "driver must be 580 or newer for CUDA 13.0, got none", id="no driver"),
]


def is_one_line(message):
    """For a user: neither broken into lines nor with what C++ says of its own files."""
    return "\n" not in message and "onnxruntime_src" not in message and len(message) < 300


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_drafter_in_half_precision_is_on_the_device_and_its_memory_is_reported(device, drafting, on_stand_in):
    found = on_stand_in("load_drafter", drafting, device)
    assert found["device"] == "cuda"
    assert found["vram_bytes"] > drafter_bytes(drafting, capacity=512)


@pytest.mark.parametrize("layers", ["auto", 1])
def test_first_blocks_are_on_the_device_and_their_memory_is_reported(layers, tiny_cut_bundle, on_stand_in):
    found = on_stand_in("load_front", tiny_cut_bundle, layers)
    assert found["device"] == "cuda"
    assert found["vram_bytes"] > front_bytes(tiny_cut_bundle, capacity=512)


@pytest.mark.parametrize(("variables", "reason"), NO_DEVICE)
def test_without_a_device_auto_takes_the_cpu(variables, reason, drafting, tiny_cut_bundle, on_stand_in):
    on_the_cpu = {"device": "cpu", "vram_bytes": None}
    assert on_stand_in("load_drafter", drafting, "auto", **variables) == on_the_cpu
    assert on_stand_in("load_front", tiny_cut_bundle, "auto", **variables) == on_the_cpu


@pytest.mark.parametrize(("variables", "reason"), NO_DEVICE)
def test_without_a_device_a_request_for_it_fails_in_one_line_with_the_reason(
    variables, reason, drafting, tiny_cut_bundle, on_stand_in
):
    for program, bundle, request in (("load_drafter", drafting, "cuda"), ("load_front", tiny_cut_bundle, 1)):
        found = on_stand_in(program, bundle, request, **variables)
        assert found["error"] == "UnavailableError"
        assert reason in found["message"]
        assert is_one_line(found["message"])


@pytest.mark.parametrize("spare_bytes", [-200_000, -30_000, 20_000], ids=["weights", "cache", "forwards"])
def test_a_device_without_room_is_an_error_in_one_line(spare_bytes, drafting, on_stand_in):
    memory = drafter_bytes(drafting, capacity=512) + spare_bytes
    found = on_stand_in("draft_ahead", drafting, STAND_IN_MEMORY=memory)
    assert found["error"] == "UnavailableError"
    assert is_one_line(found["message"])


@pytest.mark.parametrize("part", ["drafter", "front"])
@pytest.mark.parametrize("spare_bytes", [-1, 0, 100_000, 1_000_000, 3_000_000, 10_000_000])
def test_a_limit_of_memory_is_kept_by_passes_of_all_sizes_or_refused_at_once(
    spare_bytes, part, drafting, tiny_cut_bundle, on_stand_in
):
    bundle, least = {
        "drafter": (drafting, drafter_bytes(drafting, capacity=512)),
        "front": (tiny_cut_bundle, front_bytes(tiny_cut_bundle, capacity=512)),
    }[part]
    found = on_stand_in("fill_cache", bundle, part, least + spare_bytes)
    assert found["peak_bytes"] <= least + spare_bytes
    if found["max_rows"]:
        assert found["error"] is None
        assert found["peak_bytes"] > least
    else:
        assert found["error"] in ("InputError", "UnavailableError")
        assert is_one_line(found["message"])
    if spare_bytes == 10_000_000:  # forwards of all sizes together take four
        assert found["max_rows"] == Bundle(bundle).manifest.target.max_rows


def drafter_bytes(directory, capacity):
    """Of weights and cache."""
    entry = Bundle(directory).manifest.drafter
    return part_bytes(directory, entry.graph, entry, entry.num_layers, capacity)


def front_bytes(directory, capacity):
    """Of weights and cache."""
    entry = Bundle(directory).manifest.target
    return part_bytes(directory, entry.front_graph, entry, entry.front_layers, capacity)


def part_bytes(directory, graph, entry, num_layers, capacity):
    weights = (directory / f"{graph}_data").stat().st_size
    cache = CacheShape(
        num_layers=num_layers,
        num_kv_heads=entry.num_kv_heads,
        capacity=capacity,
        head_size=entry.head_size,
        dtype=np.float16,
    )
    return weights + cache.num_bytes
