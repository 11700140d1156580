"""Whether a text shares a passage with texts that nothing may be trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

NUM_WORDS: Final = 10


class Overlap:
    """Finds passages of ten words, compared without case and punctuation.

    Args:
        texts: evaluation prompts and answers.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._passages = {passage for text in texts for passage in _passages(text)}

    def shares_a_passage(self, text: str) -> bool:
        """Whether ten words in a row of `text` stand in one of the texts too."""
        return any(passage in self._passages for passage in _passages(text))


def _passages(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(NUM_WORDS)), strict=False)
