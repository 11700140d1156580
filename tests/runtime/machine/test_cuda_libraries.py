"""Where CUDA's libraries are looked for, on a machine without a GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from dovetail_ort_runtime.machine import cuda_libraries


@pytest.fixture
def with_gpu_package(monkeypatch):
    """An onnxruntime-gpu for CUDA 13."""
    fake = SimpleNamespace(cuda_version="13.0")
    monkeypatch.setattr(cuda_libraries, "import_onnxruntime", lambda: fake)
    return fake


def test_libraries_of_pip_packages_are_found_in_every_folder_of_the_path(with_gpu_package, monkeypatch, tmp_path):
    """Also where a package in the first folder has an `__init__.py`, at which `nvidia.__path__` ends."""
    places = {"libcublas.so.13": "user", "libcudart.so.13": "system", "libcudnn.so.9": "system"}
    files = {}
    for name, site in places.items():
        folder = tmp_path / site / "nvidia" / ("cudnn" if "cudnn" in name else "cu13") / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        files[name] = folder / name
        files[name].touch()
    (tmp_path / "user" / "nvidia" / "__init__.py").touch()
    preloaded, loaded = [], []
    with_gpu_package.preload_dlls = lambda **settings: preloaded.append(settings)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "user"), str(tmp_path / "system")])

    def open_library(path, mode):
        if path == "libprovider.so" and str(files["libcublas.so.13"]) not in loaded:
            raise OSError("libcublas.so.13: cannot open shared object file: No such file or directory")
        loaded.append(path)

    monkeypatch.setattr(cuda_libraries.ctypes, "CDLL", open_library)
    cuda_libraries.preload_cuda_libraries()
    assert preloaded == [
        {"cudnn": False, "directory": str(files["libcudart.so.13"].parent)},
        {"cuda": False, "directory": str(files["libcudnn.so.9"].parent)},
    ]
    cuda_libraries.load_library("libprovider.so")
    assert loaded == [str(files["libcublas.so.13"]), "libprovider.so"]


def test_a_library_that_no_package_holds_stays_missing(with_gpu_package, monkeypatch):
    def missing(path, mode):
        raise OSError("libcublas.so.13: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(cuda_libraries.ctypes, "CDLL", missing)
    with pytest.raises(OSError, match=r"libcublas.so.13"):
        cuda_libraries.load_library("libprovider.so")
