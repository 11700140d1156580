"""Print the JSON Schema of `manifest.json`, made from the records that read it.

    python tests/packaging/bundle_schema.py > docs/bundle-manifest.schema.json

Types, defaults and descriptions are the records'; bounds that their constructors check are repeated in `BOUNDS`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from typing import Any, Final

from dovetail_ort_runtime.bundle import manifest
from dovetail_ort_runtime.bundle.formats import GRAPH_FORMATS, NATIVE, NUMBER_FORMATS
from dovetail_ort_runtime.bundle.graph_entries import (
    FORMS,
    FUSIONS,
    LEAST_DIMENSIONS,
    LEAST_DRAFTER_DIMENSIONS,
    MOST_ROWS,
    AcceptanceRow,
    DrafterEntry,
    HeadOrigin,
    TapsEntry,
    TargetEntry,
)
from dovetail_ort_runtime.bundle.manifest import FileEntry, GenerationEntry, Manifest, TokenizerEntry
from dovetail_ort_runtime.options import SamplingOptions

Schema = dict[str, Any]

SCALARS: Final[dict[type, Schema]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"$ref": "#/$defs/Number"},
    bool: {"type": "boolean"},
}
NUMBER: Final[Schema] = {
    "description": "A number within the range of a double.",
    "type": "number",
    "minimum": -sys.float_info.max,
    "maximum": sys.float_info.max,
}
INSIDE_THE_BUNDLE: Final[Schema] = {"pattern": r"^(?!/)(?!(.*/)?\.\.(/|$))[^\\]+$"}
BESIDE_THE_GRAPH: Final[Schema] = {"pattern": r"^(?!\.\.?$)[^/\\]+$"}
BOUNDS: Final[dict[type, dict[str, Schema]]] = {
    FileEntry: {
        "path": INSIDE_THE_BUNDLE,
        "num_bytes": {"minimum": 0},
        "sha256": {"pattern": "^[0-9a-f]{64}$"},
    },
    TargetEntry: {
        **{name: {"minimum": least} for name, least in LEAST_DIMENSIONS.items()},
        "max_rows": {"minimum": LEAST_DIMENSIONS["max_rows"], "maximum": MOST_ROWS},
        "graph": INSIDE_THE_BUNDLE,
        "precision": {"enum": list(NUMBER_FORMATS)},
        "format": {"enum": list(GRAPH_FORMATS)},
        "operators": {"minimum": 1},
        "portable_graph": BESIDE_THE_GRAPH,
        "front_graph": BESIDE_THE_GRAPH,
        "front_chain_graph": BESIDE_THE_GRAPH,
        "front_layers": {"minimum": 0},
        "rest_graph": BESIDE_THE_GRAPH,
    },
    DrafterEntry: {
        **{name: {"minimum": least} for name, least in LEAST_DRAFTER_DIMENSIONS.items()},
        "max_rows": {"minimum": LEAST_DRAFTER_DIMENSIONS["max_rows"], "maximum": MOST_ROWS},
        "graph": INSIDE_THE_BUNDLE,
        "precision": {"enum": list(NUMBER_FORMATS)},
        "fusion": {"enum": list(FUSIONS)},
        "chain_graph": BESIDE_THE_GRAPH,
        "format": {"enum": list(GRAPH_FORMATS)},
        "operators": {"minimum": 1},
    },
    TapsEntry: {
        "graph": BESIDE_THE_GRAPH,
        "levels": {"minItems": 1, "items": {"type": "integer", "minimum": 0}},
        "portable_graph": BESIDE_THE_GRAPH,
    },
    HeadOrigin: {"form": {"enum": list(FORMS)}},
    AcceptanceRow: {
        "num_tokens": {"minimum": 1},
        "by_depth": {"items": {"$ref": "#/$defs/Number", "minimum": 0, "maximum": 1}},
    },
    TokenizerEntry: {"file": INSIDE_THE_BUNDLE, "chat_template": INSIDE_THE_BUNDLE},
    GenerationEntry: {
        "temperature": {"minimum": 0},
        "top_k": {"minimum": 0},
        "top_p": {"exclusiveMinimum": 0, "maximum": 1},
        "min_p": {"minimum": 0, "maximum": 1},
        "repetition_penalty": {"minimum": 0.01, "maximum": 100},
    },
}


def has(key: str) -> Schema:
    """An object whose key is a text."""
    return {"properties": {key: {"type": "string"}}, "required": [key]}


def lacks(*keys: str) -> Schema:
    """An object in which these keys are null or left out."""
    return {"properties": {key: {"type": "null"} for key in keys}}


IS_NATIVE: Final[Schema] = {"properties": {"format": {"const": NATIVE}}, "required": ["format"]}
# The version of native operators goes with a native graph.
HAS_OPERATORS: Final[Schema] = {
    "if": IS_NATIVE,
    "then": {"properties": {"operators": {"type": "integer"}}, "required": ["operators"]},
    "else": lacks("operators"),
}
CONDITIONS: Final[dict[type, list[Schema]]] = {
    TargetEntry: [
        HAS_OPERATORS,
        {"if": IS_NATIVE, "else": lacks("portable_graph")},
        # A front graph and the number of its blocks are there together or not at all, and one for chains only with it.
        {
            "if": has("front_graph"),
            "then": {"properties": {"front_layers": {"minimum": 1}}, "required": ["front_layers"]},
            "else": {"properties": {"front_layers": {"maximum": 0}, "front_chain_graph": {"type": "null"}}},
        },
        {"if": {"allOf": [IS_NATIVE, has("front_graph")]}, "then": has("rest_graph"), "else": lacks("rest_graph")},
    ],
    DrafterEntry: [HAS_OPERATORS],
}
DESCRIBED_ELSEWHERE: Final = {GenerationEntry: SamplingOptions}


def main() -> None:
    """Print the schema."""
    definitions: dict[str, Schema] = {"Number": NUMBER}
    whole = record_schema(Manifest, definitions)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{manifest.MANIFEST_NAME} of a dovetail-ort bundle, version {manifest.VERSION}",
    }
    whole["properties"] = {
        "format": {"const": manifest.FORMAT},
        "version": {"type": "integer", "const": manifest.VERSION},
        **whole["properties"],
    }
    whole["required"] = ["format", "version", *whole["required"]]
    print(json.dumps({**head, **whole, "$defs": dict(sorted(definitions.items()))}, indent=2))


def record_schema(record: type, definitions: dict[str, Schema]) -> Schema:
    """Schema of a frozen dataclass as `read_record` reads it; records within it are added to the definitions."""
    hints = typing.get_type_hints(record)
    descriptions = attribute_descriptions(DESCRIBED_ELSEWHERE.get(record, record)) | attribute_descriptions(record)
    properties, required = {}, []
    for field in dataclasses.fields(record):
        schema = type_schema(hints[field.name], definitions) | BOUNDS.get(record, {}).get(field.name, {})
        if field.default is dataclasses.MISSING:
            required.append(field.name)
        else:
            schema["default"] = field.default
        if field.name in descriptions:
            schema["description"] = descriptions[field.name]
        properties[field.name] = schema
    return {
        "description": (record.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        **({"allOf": CONDITIONS[record]} if record in CONDITIONS else {}),
    }


def type_schema(hint: Any, definitions: dict[str, Schema]) -> Schema:
    """Schema of a field's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (one,) = (argument for argument in arguments if argument is not type(None))
        schema = type_schema(one, definitions)
        if "type" in schema:
            return schema | {"type": [schema["type"], "null"]}
        return {"anyOf": [schema, {"type": "null"}]}
    if dataclasses.is_dataclass(hint):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = record_schema(typing.cast(type, hint), definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if origin is tuple:
        return {"type": "array", "items": type_schema(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": type_schema(arguments[1], definitions)}
    return dict(SCALARS[hint])


def attribute_descriptions(record: type) -> dict[str, str]:
    """What a docstring says of each attribute, on one line."""
    _, _, section = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("None", "null") for name, text in entries}


if __name__ == "__main__":
    main()
