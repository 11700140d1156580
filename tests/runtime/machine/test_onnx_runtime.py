"""Which package of ONNX Runtime is imported, and which installations are refused."""

from __future__ import annotations

import sys

import pytest

from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.machine import onnx_runtime


def install(folder, **versions):
    """A site-packages with the module and the metadata of some distributions."""
    (folder / "onnxruntime").mkdir(parents=True)
    (folder / "onnxruntime" / "__init__.py").write_text("")
    for name, version in versions.items():
        metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    return str(folder)


def test_of_two_packages_in_different_folders_the_one_that_is_imported_counts(monkeypatch, tmp_path):
    gpu = install(tmp_path / "gpu", onnxruntime_gpu="1.31.1")
    cpu = install(tmp_path / "cpu", onnxruntime="1.30.0")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [gpu, cpu])
    assert onnx_runtime.onnxruntime_distributions() == {"onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(sys, "path", [cpu, gpu])
    assert onnx_runtime.onnxruntime_distributions() == {"onnxruntime": "1.30.0"}


def test_two_packages_in_one_folder_are_refused(monkeypatch, tmp_path):
    both = install(tmp_path / "both", onnxruntime="1.31.0", onnxruntime_gpu="1.31.1")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [both])
    with pytest.raises(UnavailableError, match="both installed, and overwrite each other's files"):
        onnx_runtime.import_onnxruntime()
