"""Write a source as a Hugging Face directory, fp32: the form that other engines' converters read.

python -m benchmarks.peers.save_hugging_face SOURCE OUT
"""

from __future__ import annotations

import sys
from typing import Any, Final

from transformers import PreTrainedTokenizerFast

from dovetail_ort_export.source import load_source

_NAMES: Final = ("bos_token", "eos_token")


def main(source: str, out: str) -> None:
    """Save model and tokenizer."""
    loaded = load_source(source)
    text = loaded.text
    model: Any = loaded.model
    model.generation_config.eos_token_id = list(text.eos_token_ids)
    model.config.eos_token_id = text.eos_token_ids[0]
    model.save_pretrained(out)
    special = {name: text.special_tokens[name] for name in _NAMES if name in text.special_tokens}
    PreTrainedTokenizerFast(tokenizer_object=text.tokenizer, **special).save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
