"""What becomes of a manifest of version 1."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.bundle.manifest_version_1 import from_version_1
from dovetail_ort_runtime.errors import BundleError, BundleVersionError


def of_version_1(**target):
    """The sections of a manifest as version 1 wrote them, as far as they changed since."""
    return {
        "target": {"graph": "model.onnx", "int8_format": "block", **target},
        "measurements": {"agreement": {}, "int8_formats": [{"int8_format": "row"}]},
        "provenance": {"source": "owner/a model", "calibration": {"text": None}},
        "files": [],
    }


@pytest.mark.parametrize("int8_format", ["block", None])
def test_keys_that_are_gone_are_left_out_and_all_others_stay(int8_format):
    assert from_version_1(of_version_1(int8_format=int8_format)) == {
        "target": {"graph": "model.onnx"},
        "measurements": {"agreement": {}},
        "provenance": {"source": "owner/a model"},
        "files": [],
    }


@pytest.mark.parametrize("section", ["target", "measurements", "provenance"])
def test_a_section_that_is_no_object_is_left_to_the_reader_of_records(section):
    manifest = of_version_1() | {section: 7}
    assert from_version_1(manifest)[section] == 7


@pytest.mark.parametrize("int8_format", ["row", "row-unsigned"])
def test_weights_by_rows_are_refused_with_the_command_that_makes_a_new_bundle(int8_format):
    with pytest.raises(BundleVersionError, match=r"make .*: dovetail-ort export 'owner/a model' OUT") as caught:
        from_version_1(of_version_1(int8_format=int8_format))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["format", "operators", "portable_graph", "rest_graph"])
def test_a_key_of_version_2_is_refused(key):
    with pytest.raises(BundleError, match=rf"manifest\.target of version 1 must have no key '{key}'"):
        from_version_1(of_version_1(**{key: None}))
