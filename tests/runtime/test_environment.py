import pytest

from dovetail_ort_runtime import environment


@pytest.mark.parametrize(
    ("flags", "best"),
    [("fpu avx2 avx512f avx512_vnni", ", avx512_vnni"), ("fpu avx2", ", avx2"), ("fpu sse2", ""), (None, "")],
)
def test_processors_of_one_name_differ_by_the_instruction_set_of_their_int8_kernels(monkeypatch, flags, best):
    fields = {"model name": "AMD EPYC", "flags|Features": flags}
    monkeypatch.setattr(environment, "_processor_field", fields.get)
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    assert environment.processor_name() == f"AMD EPYC, 2 cores{best}"


def test_sums_are_cut_off_where_x86_has_no_vnni():
    sets = environment.instruction_sets()
    if sets is None:
        pytest.skip("there is no /proc/cpuinfo to compare with")
    expected = "avx2" in sets and not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(sets)
    assert environment.sums_of_8_bits_saturate() == expected
