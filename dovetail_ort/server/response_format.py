"""What an answer's text must follow, as `response_format` says it. It knows no grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dovetail_ort.server.fields import Fields, bad_value


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What an answer's text must follow.

    Attributes:
        kind: `json_schema` or `regex`.
        value: the schema as JSON gave it, or the expression.
    """

    kind: str
    value: Any


def read_rule(value: object) -> Rule | None:
    """The field `response_format`; beside OpenAI's types there is `regex`, with the expression in a field `regex`.

    Raises:
        RequestError: it is of another type, or its rule is missing.
    """
    if value is None:
        return None
    response_format = Fields(value, "response_format")
    kind = response_format.text("type")
    match kind:
        case "text":
            rule = None
        case "json_object":
            rule = Rule(kind="json_schema", value={"type": "object"})
        case "json_schema":
            rule = Rule(kind="json_schema", value=_named_schema(response_format.take("json_schema")))
        case "regex":
            rule = Rule(kind="regex", value=response_format.required("regex", str, "a regular expression"))
        case _:
            raise bad_value("response_format.type", "text, json_object, json_schema or regex", kind)
    response_format.end()
    return rule


def _named_schema(value: object) -> Any:
    named = Fields(value, "response_format.json_schema")
    named.ignore(["name", "description", "strict"])  # every schema is kept to the letter
    schema = named.required("schema", dict, "a JSON schema, an object")
    named.end()
    return schema
