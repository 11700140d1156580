"""An answer that follows a JSON schema; needs `pip install 'dovetail-ort[server]'` for llguidance.

Usage:

    python examples/json_schema.py BUNDLE
"""

from __future__ import annotations

import json
import sys

import dovetail_ort
from dovetail_ort import GenerationOptions, GrammarCompiler

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "inhabitants": {"type": "integer", "minimum": 0, "maximum": 100_000_000},
        "is_capital": {"type": "boolean"},
    },
    "required": ["city", "inhabitants", "is_capital"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # on one line: white space would cost tokens
}


def main(bundle: str) -> None:
    """Print the answer, parsed from JSON."""
    with dovetail_ort.load(bundle) as model:
        grammars = GrammarCompiler(model)  # one for all answers of a model
        options = GenerationOptions(max_new_tokens=200, constraint=grammars.json_schema(SCHEMA))
        answer = model.generate([{"role": "user", "content": "Describe Paris as JSON."}], options)
    print(json.loads(answer.text))


if __name__ == "__main__":
    main(sys.argv[1])
