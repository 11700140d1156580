"""From a request to token ids and options for the model, within the server's limits. It knows no queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dovetail_ort.grammar import Grammar, GrammarCompiler
from dovetail_ort.server.conversation import with_text_arguments
from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.requests import AnswerRequest
from dovetail_ort.server.settings import ServerSettings
from dovetail_ort_runtime.errors import ChatTemplateError, InputError
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.options import GenerationOptions


class Intake:
    """Checks and prepares requests.

    Args:
        model: model that answers.
        settings: limits and defaults of the server.
    """

    def __init__(self, model: Model, settings: ServerSettings) -> None:
        self._model = model
        self._settings = settings
        self._compiler: GrammarCompiler | InputError
        try:
            self._compiler = GrammarCompiler(model)
        except InputError as error:  # this bundle takes no rules, but answers all other requests
            self._compiler = error
        fits = model.max_context - 1
        self._max_prompt_tokens = min(settings.max_prompt_tokens or fits, fits)

    def check(self, request: AnswerRequest) -> None:
        """Refuse at once what needs no work to refuse.

        Raises:
            RequestError: the request is for another model, for more tokens than an answer may have, or has fields that
                must not be ignored.
        """
        self._settings.check_model(request.model)
        self._settings.check_fields(request.ignored_fields)
        most = self._settings.max_new_tokens
        if most is not None and (request.max_new_tokens or 0) > most:
            raise RequestError(f"max_tokens must be {most} or less, got {request.max_new_tokens}", param="max_tokens")

    def prepare(self, request: AnswerRequest) -> tuple[list[int], GenerationOptions]:
        """Token ids of the prompt, and options of the answer.

        Raises:
            DovetailError: the prompt is too long, or the model cannot do what the request asks for.
        """
        token_ids = self._token_ids(request)
        if len(token_ids) > self._max_prompt_tokens:
            raise RequestError(
                f"the prompt must have {self._max_prompt_tokens} tokens or fewer, got {len(token_ids)}; shorten it",
                code="context_length_exceeded",
                param=request.prompt_field,
            )
        answer = self._settings.answer
        sampling = answer.sampling or self._model.manifest.generation.sampling()
        options = replace(
            answer,
            max_new_tokens=request.max_new_tokens or self._settings.usual_new_tokens,
            stop=request.stop,
            sampling=replace(sampling, **request.sampling),
            logprobs=request.logprobs,
            constraint=None if request.rule is None else self._grammar(*request.rule),
        )
        return token_ids, options

    def _token_ids(self, request: AnswerRequest) -> list[int]:
        arguments = request.template_arguments
        try:
            return self._model.token_ids(request.prompt, template_arguments=arguments)
        except ChatTemplateError:
            messages: Any = request.prompt  # only messages go through a template
            if not any("tool_calls" in message for message in messages):
                raise
        # Some templates write the arguments of a tool call as they are, and fail on an object.
        return self._model.token_ids(with_text_arguments(messages), template_arguments=arguments)

    def _grammar(self, kind: str, rule: Any) -> Grammar:
        if isinstance(self._compiler, InputError):
            raise self._compiler
        return self._compiler.regex(rule) if kind == "regex" else self._compiler.json_schema(rule)
