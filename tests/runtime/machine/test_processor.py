"""The processor's name and its usable cores."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.machine import processor


@pytest.mark.parametrize(
    ("flags", "best"),
    [("fpu avx2 avx512f avx512_vnni", ", avx512_vnni"), ("fpu avx2", ", avx2"), ("fpu sse2", ""), (None, "")],
)
def test_processors_of_one_name_differ_by_the_instruction_set_of_their_int8_kernels(monkeypatch, flags, best):
    fields = {"model name": "AMD EPYC", "flags|Features": flags}
    monkeypatch.setattr(processor, "processor_field", fields.get)
    monkeypatch.setattr(processor, "usable_cores", lambda: 2)
    assert processor.processor_name() == f"AMD EPYC, 2 cores{best}"
