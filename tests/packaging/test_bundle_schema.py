"""The published JSON Schema of a manifest says what the reader does."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dovetail_ort_export import ExportOptions, export_bundle
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.manifest import VERSION, Manifest
from dovetail_ort_runtime.errors import BundleError, BundleVersionError

FOLDER = Path(__file__).parent
SCHEMA = FOLDER.parents[1] / "docs" / "bundle-manifest.schema.json"
PAGE = FOLDER.parents[1] / "docs" / "bundle-format.md"
COMMAND = "python tests/packaging/bundle_schema.py > docs/bundle-manifest.schema.json"
VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))

TEXTS = ("", "x", "..", "/x", "a/b", "a\\b")
VALUES = (None, True, -1, 0, 1, 2.5, 10**400, *TEXTS, [], [2], ["x"], {}, {"x": 1}, {"x": "y"})
REMOVED = object()


@pytest.fixture(scope="module")
def cut_bundle(tiny_llama, tmp_path_factory):
    """A bundle of two target graphs in fp32."""
    out = tmp_path_factory.mktemp("cut") / "bundle"
    export_bundle(str(tiny_llama), out, ExportOptions(gpu_layers=1, precision="fp32"))
    return out


@pytest.fixture(scope="module")
def fullest(tiny_drafting_bundle, tmp_path_factory):
    """A bundle, opened, whose manifest has something at every key."""
    directory = shutil.copytree(tiny_drafting_bundle, tmp_path_factory.mktemp("fullest") / "bundle")
    whole = manifest_of(directory)
    whole["provenance"] |= {"revision": "a1", "licence": "mit", "ignored_settings": ["x"], "ignored_weights": ["y"]}
    whole["drafter"] |= {
        "taps": {"graph": whole["target"]["graph"], "levels": [1], "portable_graph": whole["target"]["portable_graph"]},
        "origin": {"name": "owner/head", "form": "eagle3", "revision": "b2", "licence": "mit"},
        "acceptance": [{"text": "own answers", "num_tokens": 200, "by_depth": [0.7, 0.6]}],
    }
    (directory / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    return directory


def manifest_of(directory):
    return json.loads((directory / "manifest.json").read_text(encoding="utf-8"))


def test_the_schema_is_what_the_records_make_of_it():
    command = [sys.executable, FOLDER / "bundle_schema.py"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == SCHEMA.read_text(encoding="utf-8"), f"run: {COMMAND}"
    VALIDATOR.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize(
    "name",
    [
        *("tiny_bundle", "tiny_bundle_fp32", "tiny_drafting_bundle", "tiny_drafting_bundle_fp32"),
        *("cut_bundle", "fullest"),
    ],
)
def test_every_kind_of_bundle_fits_the_schema(name, request):
    directory = request.getfixturevalue(name)
    VALIDATOR.validate(manifest_of(directory))
    Bundle(directory).verify_checksums()


@pytest.mark.parametrize("path", sorted((FOLDER / "manifests").glob("*.json")), ids=lambda path: path.stem)
def test_a_manifest_of_an_earlier_release_is_read_and_fits_the_schema(path):
    """One of version 1 fits it once it is converted, unless its weights are INT8 by rows."""
    text = path.read_text(encoding="utf-8")
    whole = json.loads(text)
    if whole["target"].get("int8_format") == "row":
        with pytest.raises(BundleVersionError, match="dovetail-ort export"):
            Manifest.from_json(text)
        return
    manifest = Manifest.from_json(text)
    assert manifest.target.num_layers == whole["target"]["num_layers"]
    VALIDATOR.validate(whole if whole["version"] == VERSION else json.loads(manifest.to_json()))


def changed_manifests(whole):
    """Every manifest with one value replaced, removed or added, and which change that is."""
    for path in [(), *places(whole)]:
        for value in (*VALUES, REMOVED):
            changed = copy.deepcopy(whole)
            place = changed
            for key in path[:-1]:
                place = place[key]
            if not path:
                changed = {**changed, "extra": value} if value is not REMOVED else {}
            elif value is REMOVED:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            yield changed, f"{'.'.join(map(str, path))} = {'nothing' if value is REMOVED else value!r:.20}"


def places(value, path=()):
    """Paths of all values within a JSON value; of a list, those of its first."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value[:1])
    else:
        children = ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def is_read(text):
    try:
        Manifest.from_json(text)
    except BundleError:
        return False
    return True


def is_opened(directory, text):
    (directory / "manifest.json").write_text(text, encoding="utf-8")
    try:
        Bundle(directory).verify_checksums()
    except BundleError:
        return False
    return True


def test_reader_and_schema_agree_about_every_single_change(fullest, tmp_path):
    directory = shutil.copytree(fullest, tmp_path / "bundle")
    num_refused = 0
    for changed, change in changed_manifests(manifest_of(fullest)):
        text = json.dumps(changed)
        if VALIDATOR.is_valid(changed):
            assert is_read(text), change
        else:
            num_refused += 1
            assert not is_opened(directory, text), change
    assert num_refused > 1000


def test_the_cut_of_a_target_is_bounded_by_its_layers_in_the_reader_alone(cut_bundle):
    whole = manifest_of(cut_bundle)
    assert whole["target"]["front_graph"] is not None
    for front_layers, fits, read in ((0, False, False), (1, True, True), (2, True, False)):
        whole["target"]["front_layers"] = front_layers
        assert VALIDATOR.is_valid(whole) is fits
        assert is_read(json.dumps(whole)) is read


def test_a_whole_number_with_a_fraction_is_refused_by_the_reader_alone(fullest):
    whole = manifest_of(fullest)
    whole["target"]["num_heads"] = float(whole["target"]["num_heads"])
    assert VALIDATOR.is_valid(whole)
    assert not is_read(json.dumps(whole))


@pytest.mark.parametrize(
    ("heading", "records"),
    [
        ("`target`", {"": "TargetEntry"}),
        ("`drafter`", {"": "DrafterEntry"}),
        ("`tokenizer`, `generation`", {"tokenizer.": "TokenizerEntry", "generation.": "GenerationEntry"}),
    ],
)
def test_the_page_has_every_key_and_says_which_may_be_left_out(heading, records):
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"### {heading}\n")
    rows = re.findall(r"^\| (`.*?`) \| (MUST|MAY)", section.partition("\n#")[0], re.MULTILINE)
    stated = {key: rule for keys, rule in rows for key in re.findall(r"`([\w.]+)`", keys)}
    expected = {}
    for prefix, name in records.items():
        record = VALIDATOR.schema["$defs"][name]
        expected |= {prefix + key: "MUST" if key in record["required"] else "MAY" for key in record["properties"]}
    assert stated == expected
