"""From a request to what the model is asked: token ids and options within the server's limits. It knows no queue."""

from __future__ import annotations

from dataclasses import replace

from dovetail_ort.grammar import Grammar, GrammarCompiler
from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.requests import AnswerRequest, Rule
from dovetail_ort.server.settings import ServerSettings
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.generation_options import GenerationOptions
from dovetail_ort_runtime.model import Model


class Intake:
    """Prepares requests; any number of threads may use it at once.

    Args:
        model: what will answer.
        settings: limits, and what a request does not set.

    Raises:
        UnavailableError: llguidance is missing.
    """

    def __init__(self, model: Model, settings: ServerSettings) -> None:
        self._model, self._settings = model, settings
        self._compiler: GrammarCompiler | InputError
        try:
            self._compiler = GrammarCompiler(model)
        except InputError as error:  # a bundle whose answers cannot be held to a rule still gives others
            self._compiler = error
        fits = model.max_context - 1
        self.max_prompt_tokens = min(settings.max_prompt_tokens or fits, fits)

    def prepare(self, request: AnswerRequest) -> tuple[list[int], GenerationOptions]:
        """The prompt's token ids, and the options of the answer.

        Raises:
            DovetailError: the request goes beyond a limit, or the model cannot do what it asks.
        """
        options = self._options(request)
        token_ids = self._model.token_ids(request.prompt)
        if len(token_ids) > self.max_prompt_tokens:
            raise RequestError(
                f"the prompt must have {self.max_prompt_tokens} tokens or fewer, got {len(token_ids)}; shorten it",
                code="context_length_exceeded",
                param=request.prompt_field,
            )
        return token_ids, options

    def check_model(self, name: str | None) -> None:
        """Refuse another model than the one that is served; None names none."""
        if name not in (None, self._settings.model_name):
            raise RequestError(
                f"model must be {self._settings.model_name}, got {name!a:.60}",
                status=404,
                code="model_not_found",
                param="model",
            )

    def _options(self, request: AnswerRequest) -> GenerationOptions:
        self.check_model(request.model)
        answer = self._settings.answer
        sampling = answer.sampling or self._model.manifest.generation.sampling()
        return replace(
            answer,
            max_new_tokens=self._max_new_tokens(request.max_new_tokens),
            stop=request.stop,
            sampling=replace(sampling, **request.sampling),
            logprobs=request.logprobs,
            constraint=None if request.rule is None else self._grammar(request.rule),
        )

    def _max_new_tokens(self, asked: int | None) -> int:
        most = self._settings.answer.max_new_tokens
        if asked is not None and asked > most:
            raise RequestError(f"max_tokens must be {most} or less, got {asked}", param="max_tokens")
        return asked or most

    def _grammar(self, rule: Rule) -> Grammar:
        if isinstance(self._compiler, InputError):
            raise self._compiler
        if rule.kind == "regex":
            return self._compiler.regex(rule.value)
        return self._compiler.json_schema(rule.value)
