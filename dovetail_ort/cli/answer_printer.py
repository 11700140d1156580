"""An answer on the terminal: its text as it is decided, then a line of statistics."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final

from dovetail_ort.cli.terminal import shows_colours
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.options import GenerationOptions
from dovetail_ort_runtime.results import Generation
from dovetail_ort_runtime.text.messages import Prompt

_TINT: Final = "\x1b[32m{}\x1b[0m"


class AnswerPrinter:
    """Prints one answer at a time.

    Args:
        model: the model that answers.
        options: limits and sampling of every answer.
        template_arguments: values that the chat template gets with every conversation.
        show_drafted: whether drafted tokens are coloured on a terminal.
        quiet: whether the line of statistics is left out.

    Attributes:
        text: text of the newest answer so far; an interrupted answer keeps what was decided.
    """

    def __init__(
        self,
        model: Model,
        options: GenerationOptions,
        *,
        template_arguments: Mapping[str, Any],
        show_drafted: bool,
        quiet: bool,
    ) -> None:
        self.text = ""
        self._model = model
        self._options = options
        self._template_arguments = template_arguments
        self._exactness = "exact" if model.exact else "not exact: this bundle failed its check"
        self._tinted = show_drafted and shows_colours()
        self._quiet = quiet

    def answer(self, prompt: Prompt) -> None:
        """Print the pieces of an answer as they come, then its statistics. Its last line ends even after an error."""
        self.text = ""
        generation = None
        try:
            stream = self._model.stream(prompt, self._options, template_arguments=self._template_arguments)
            with closing(stream) as pieces:
                for piece in pieces:
                    self.text += piece.text
                    tinted = self._tinted and piece.drafted and piece.text
                    print(_TINT.format(piece.text) if tinted else piece.text, end="", flush=True)
                    generation = piece.generation
        finally:
            if self.text:
                print(flush=True)
        if generation is not None and not self._quiet:
            print(f"[{statistics_line(generation)}, {self._exactness}]", file=sys.stderr)


def statistics_line(generation: Generation) -> str:
    """Tokens, speed, speculation and reuse of the cache in one line."""
    statistics = generation.statistics
    parts = [f"{statistics.new_tokens} tokens"]
    if generation.finish_reason == "length":
        parts[0] += " (cut at the limit)"
    if statistics.rounds:
        parts.append(f"{statistics.decode_tokens_per_second:.1f} tokens/s")
    if statistics.drafted_tokens:
        parts.append(f"{statistics.accepted_tokens / statistics.rounds:.2f} draft tokens accepted a round")
    parts.append(f"first token after {statistics.time_to_first_token_seconds:.2f} s")
    if statistics.cached_tokens:
        parts.append(f"{statistics.cached_tokens} of {statistics.prompt_tokens} prompt tokens reused")
    return ", ".join(parts)
