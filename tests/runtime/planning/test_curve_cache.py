"""Curves on disk: they come back for the same machine, and for no other."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine import session
from dovetail_ort_runtime.loading import curves
from dovetail_ort_runtime.loading.drafters import make_drafter
from dovetail_ort_runtime.planning.curve_cache import CurveKey, curves_directory, load_curves, store_curves

KEY = CurveKey(
    bundles="ab",
    drafter="FeatureDrafter",
    devices=("cuda, NVIDIA H100", "cpu", "cpu"),
    processor="one, 2 cores",
    onnxruntime="1.32",
    operators="native, kernels avx2 1",
    threads=2,
    max_context=512,
    method="in rounds",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_stored_curves_come_back_for_the_same_machine_and_no_other(cache, some_curves):
    assert load_curves(KEY) is None
    store_curves(KEY, some_curves)
    assert load_curves(KEY) == some_curves
    for name, value in (
        ("threads", 1),
        ("max_context", 64),
        ("devices", ("cpu", "cpu", "cpu")),
        ("devices", ("cuda, NVIDIA H200", "cpu", "cpu")),
        ("devices", ("cuda, NVIDIA H100", "cpu", "cuda, NVIDIA H100")),
        ("processor", "another"),
        ("onnxruntime", "1.31"),
        ("operators", "portable, kernels avx2 1"),
        ("operators", "native, kernels avx512vnni 1"),
        ("operators", "native, kernels avx2 2"),
        ("bundles", "cd"),
        ("drafter", "DraftingAhead"),
        ("method", "alone"),
    ):
        assert load_curves(dataclasses.replace(KEY, **{name: value})) is None
    assert KEY.path.is_relative_to(cache)
    assert [path.name for path in KEY.path.parent.iterdir()] == [KEY.path.name]


def test_times_are_kept_for_the_device_of_every_session(monkeypatch, target_of, tiny_cut_bundle, some_curves):
    """The first blocks take another time on a GPU, though the drafter is where it was."""
    keys = []
    monkeypatch.setattr(curves, "load_curves", lambda key: keys.append(key) or some_curves)
    monkeypatch.setattr(curves, "device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(session, "vram_in_use", lambda: None)
    target = target_of(tiny_cut_bundle)
    for device in ("cpu", "cuda"):
        target.first_blocks.device = device
        make_drafter(Bundle(tiny_cut_bundle), target)
    assert [key.devices for key in keys] == [("cpu", "cpu"), ("cuda, NVIDIA H100", "cpu")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: json.dumps(json.loads(text) | {"more": 1}),
        lambda text: "",
    ],
    ids=["cut", "no object", "unknown key", "empty"],
)
def test_a_damaged_file_is_measured_again_and_not_an_error(cache, damage, some_curves):
    store_curves(KEY, some_curves)
    KEY.path.write_text(damage(KEY.path.read_text()))
    assert load_curves(KEY) is None
    store_curves(KEY, some_curves)
    assert load_curves(KEY) == some_curves


def test_where_nothing_can_be_written_nothing_is_kept(cache, some_curves):
    (cache / "dovetail-ort").write_text("a file stands where the directory would")
    store_curves(KEY, some_curves)
    assert load_curves(KEY) is None


def test_a_full_disk_leaves_no_part_of_a_file(cache, full_disk, some_curves):
    many = dataclasses.replace(some_curves, catch_up_rows=tuple(range(500)), catch_up_ms=(1.0,) * 500)
    with full_disk():
        store_curves(KEY, many)
    assert not list(KEY.path.parent.iterdir())


def test_without_a_home_there_is_no_cache(monkeypatch, some_curves):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(curves_directory()) == "/home/somebody/.cache/dovetail-ort/curves"
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    store_curves(KEY, some_curves)
    assert load_curves(KEY) is None
