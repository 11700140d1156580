from __future__ import annotations

import sys

import pytest

from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.machine import environment


@pytest.mark.parametrize(
    ("flags", "best"),
    [("fpu avx2 avx512f avx512_vnni", ", avx512_vnni"), ("fpu avx2", ", avx2"), ("fpu sse2", ""), (None, "")],
)
def test_processors_of_one_name_differ_by_the_instruction_set_of_their_int8_kernels(monkeypatch, flags, best):
    fields = {"model name": "AMD EPYC", "flags|Features": flags}
    monkeypatch.setattr(environment, "_processor_field", fields.get)
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    assert environment.processor_name() == f"AMD EPYC, 2 cores{best}"


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
    assert environment.onnxruntime_distributions() == {"onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(sys, "path", [cpu, gpu])
    assert environment.onnxruntime_distributions() == {"onnxruntime": "1.30.0"}


def test_two_packages_in_one_folder_are_refused(monkeypatch, tmp_path):
    both = install(tmp_path / "both", onnxruntime="1.31.0", onnxruntime_gpu="1.31.1")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [both])
    with pytest.raises(UnavailableError, match="got both, which overwrite each other's files"):
        environment.import_onnxruntime()
