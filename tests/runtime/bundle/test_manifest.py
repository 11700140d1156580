"""The manifest reads back as it was written, and each wrong value is refused by its name."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.bundle.manifest import FileEntry, GenerationEntry, Manifest, TokenizerEntry
from dovetail_ort_runtime.bundle.measurements import Agreement, Measurements, Provenance, RowInvariance
from dovetail_ort_runtime.errors import BundleError, BundleVersionError

MANIFEST = Manifest(
    target=TargetEntry(
        graph="model_quantized.onnx",
        family="llama",
        precision="int8",
        exact=True,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_size=16,
        hidden_size=64,
        vocabulary_size=384,
        num_parameters=98624,
        max_context=512,
        max_rows=64,
    ),
    tokenizer=TokenizerEntry(file="tokenizer.json", chat_template=None, special_tokens={"eos_token": "<|im_end|>"}),
    generation=GenerationEntry(eos_token_ids=(2, 0), temperature=0.6, top_p=0.95, top_k=20),
    measurements=Measurements(
        row_invariance=RowInvariance(rows=(2, 3, 5), num_tokens=120, identical=True, largest_difference=0.0),
        agreement=Agreement(num_tokens=511, top1=0.97, mean_kl=0.004),
    ),
    provenance=Provenance(source="tiny", exporter="0.1.0", packages={"torch": "2.13.0"}, machine="a processor"),
    files=(FileEntry(path="tokenizer.json", num_bytes=2, sha256="ab" * 32),),
)


def changed(path, value):
    """The manifest's JSON with the value at a dotted path replaced; "..." removes it."""
    whole = json.loads(MANIFEST.to_json())
    *parents, last = path.split(".")
    place = whole
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    if value is ...:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return json.dumps(whole)


def test_a_manifest_reads_back_as_it_was_written():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_the_json_names_its_format_and_version_first():
    assert list(json.loads(MANIFEST.to_json()))[:2] == ["format", "version"]


def test_generation_settings_may_be_left_out():
    text = changed("generation", {"eos_token_ids": [2]})
    assert Manifest.from_json(text).generation == GenerationEntry(eos_token_ids=(2,))


def test_a_whole_number_passes_for_a_fraction():
    assert Manifest.from_json(changed("generation.temperature", 1)).generation.temperature == 1.0


@pytest.mark.parametrize("version", [0, 3, "1", None, [1], 1.5, 1.0, True])
def test_another_version_is_refused_with_both_ways_out(version):
    with pytest.raises(BundleVersionError, match=r"version must be 2 or 1, got .*export the bundle again or install"):
        Manifest.from_json(changed("version", version))


@pytest.mark.parametrize("text", ["[]", "7", "null", "{}", changed("format", "other"), changed("format", ...)])
def test_other_json_is_not_taken_for_a_manifest(text):
    with pytest.raises(BundleError, match='must have "format": "dovetail-ort-bundle"'):
        Manifest.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "\ufeff{}", MANIFEST.to_json()[:-3], "[" * 100_000, "1" * 5000])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(BundleError, match=r"manifest.json is not JSON"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("extra", 1, "manifest must have no other keys than .*, got 'extra'; install the release .* or a newer"),
        ("target.extra", 1, "manifest.target must have no other keys than .*, got 'extra'"),
        ("files.0.extra", 1, r"manifest.files\[0\] must have no other keys than .*, got 'extra'"),
        ("target", ..., "manifest must have the key 'target'"),
        ("target.num_layers", ..., "manifest.target must have the key 'num_layers'"),
        ("target", [], "manifest.target must be an object, got a list"),
        ("target.num_layers", "2", "manifest.target.num_layers must be an integer, got a string"),
        ("target.num_layers", True, "manifest.target.num_layers must be an integer, got true or false"),
        ("target.num_layers", 2.0, "manifest.target.num_layers must be an integer, got a number"),
        ("target.exact", 1, "manifest.target.exact must be true or false, got an integer"),
        ("target.graph", None, "manifest.target.graph must be a string, got null"),
        ("tokenizer.special_tokens.eos_token", 2, r"special_tokens\['eos_token'\] must be a string, got an integer"),
        ("generation.eos_token_ids", 2, "manifest.generation.eos_token_ids must be a list, got an integer"),
        ("generation.eos_token_ids.1", "2", r"eos_token_ids\[1\] must be an integer, got a string"),
        ("generation.temperature", "hot", "manifest.generation.temperature must be a number, got a string"),
        ("generation.temperature", 10**400, "manifest.generation.temperature must be a number"),
        ("generation.temperature", -1.0, "manifest.generation: temperature must be 0 or more, got -1.0"),
        ("generation.top_p", 0.0, "manifest.generation: top_p must be above 0 and at most 1, got 0.0"),
        ("target.num_layers", 0, "manifest.target: num_layers must be 1 or more, got 0"),
        ("target.max_context", -5, "manifest.target: max_context must be 2 or more, got -5"),
        ("target.precision", "int5", "manifest.target: precision must be one of int8, int4, fp16, fp32, got 'int5'"),
        ("target.format", "column", "manifest.target: format must be one of native, portable, got 'column'"),
        ("target.format", "native", "manifest.target: operators must be 1 or more with a native graph, got None"),
        ("target.operators", 1, "manifest.target: a portable graph has no native operators; leave out their version 1"),
        ("target.portable_graph", "a.onnx", "portable_graph needs a native graph beside it; leave out 'a.onnx'"),
        ("target.rest_graph", "a.onnx", "rest_graph needs a native graph and a front_graph; leave out 'a.onnx'"),
        ("target.front_layers", 2, "front_layers must be 0 without a front_graph, got 2"),
        ("target.max_rows", 1, "manifest.target: max_rows must be 2 or more, got 1"),
        ("target.max_rows", 1025, "manifest.target: max_rows must be 1024 or less, got 1025"),
        ("target.graph", "", "manifest.target: graph must be the path of a file, got ''"),
        ("files", {}, "manifest.files must be a list, got an object"),
        ("files.0", "tokenizer.json", r"manifest.files\[0\] must be an object, got a string"),
    ],
)
def test_a_field_that_does_not_fit_is_named(path, value, message):
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(changed(path, value))


def of_version_1(**target):
    """The manifest's JSON as version 1 wrote it, with what is gone since then."""
    whole = json.loads(MANIFEST.to_json())
    for key in ("format", "operators", "portable_graph", "rest_graph"):
        del whole["target"][key]
    whole["version"] = 1
    whole["target"] |= target
    whole["measurements"]["int8_formats"] = [{"int8_format": "row"}]
    whole["provenance"] |= {"source": "owner/a model", "calibration": {"text": None}}
    return json.dumps(whole)


@pytest.mark.parametrize("int8_format", ["block", None])
def test_version_1_in_blocks_or_without_int8_is_read_as_portable(int8_format):
    found = Manifest.from_json(of_version_1(int8_format=int8_format))
    assert found == dataclasses.replace(
        MANIFEST, provenance=dataclasses.replace(MANIFEST.provenance, source="owner/a model")
    )
    assert (found.target.format, found.target.operators) == ("portable", None)
    assert json.loads(found.to_json())["version"] == 2


def test_a_key_that_no_version_has_is_refused_in_version_1():
    with pytest.raises(BundleError, match=r"manifest\.target must have no other keys .*, got 'extra'"):
        Manifest.from_json(of_version_1(extra=1))


def test_versions_of_native_operators_are_those_of_native_graphs():
    changes = {"graph": "g/n.onnx", "format": "native", "operators": 1, "portable_graph": "p.onnx"}
    front = {"front_graph": "f.onnx", "front_layers": 1, "rest_graph": "r.onnx"}
    manifest = dataclasses.replace(MANIFEST, target=dataclasses.replace(MANIFEST.target, **changes, **front))
    assert manifest.operators() == {"g/n.onnx": 1, "g/r.onnx": 1}
    assert MANIFEST.operators() == {"model_quantized.onnx": None}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**19)])
    | st.floats()
    | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(value, path=()):
    """Paths of all values within a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


PLACES = list(places(json.loads(MANIFEST.to_json())))


@given(st.lists(st.tuples(st.sampled_from(PLACES), json_values | st.just(...)), min_size=1, max_size=3))
def test_any_change_of_values_is_read_or_refused_as_a_bundle_error(changes):
    whole = json.loads(MANIFEST.to_json())
    for path, value in changes:
        place = whole
        for key in path[:-1]:
            place = place[key] if isinstance(place, (dict, list)) and _has(place, key) else None
        if isinstance(place, (dict, list)) and _has(place, path[-1]):
            if value is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = value
    read_or_refuse(json.dumps(whole))


def _has(place, key):
    return key in place if isinstance(place, dict) else isinstance(key, int) and key < len(place)


@given(st.integers(0, len(MANIFEST.to_json())), st.integers(0, 40), st.text(max_size=5))
def test_any_change_of_the_text_is_read_or_refused_as_a_bundle_error(start, length, inserted):
    text = MANIFEST.to_json()
    read_or_refuse(text[:start] + inserted + text[start + length :])


def read_or_refuse(text):
    message = ""
    try:
        manifest = Manifest.from_json(text)
    except BundleError as error:
        message = str(error)
    else:
        assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()
    assert "\n" not in message
