"""The name of a machine's folder."""

from __future__ import annotations

import pytest

from benchmarks.machine import machine_slug, results_folder, write_result
from benchmarks.result_files import read_json
from dovetail_ort_runtime.machine.processor import processor_name


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("AMD EPYC, 2 cores", "amd-epyc-2-cores"),
        ("AMD EPYC, 2 cores, avx2", "amd-epyc-2-cores-avx2"),
        ("Intel(R) Xeon(R) Processor, 2 cores, amx_int8", "intel-xeon-2-cores-amx-int8"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz, 4 cores, avx2", "intel-core-i7-8550u-4-cores-avx2"),
        ("aarch64, 8 cores, i8mm", "aarch64-8-cores-i8mm"),
    ],
)
def test_a_slug_keeps_processor_cores_and_instruction_set(name, slug):
    assert machine_slug(name) == slug


def test_this_machine_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)
    assert results_folder() == tmp_path / machine_slug(processor_name())
    assert results_folder().is_dir()


def test_a_result_file_says_where_and_when_and_with_what_it_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.machine.RESULTS", tmp_path)
    path = write_result("growth", {"contexts": {}})
    found = read_json(path)
    assert path == results_folder() / "growth.json"
    assert capsys.readouterr().out == f"{path}\n"
    assert found.keys() == {"machine", "date", "dovetail_ort", "onnxruntime", "contexts"}
    assert found["machine"] == processor_name()
