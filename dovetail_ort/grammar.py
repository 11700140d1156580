"""Constraints from JSON schemas, regular expressions and Lark grammars, made by llguidance. It knows no decoding."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.errors import InputError, UnavailableError, one_line
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.options import Constraint, ConstraintState

if TYPE_CHECKING:
    from llguidance import LLMatcher

# Grammars come from strangers. These limits bound the time and the memory of compiling a grammar and of each token.
MAX_GRAMMAR_CHARACTERS: Final = 20_000
_LIMITS: Final = {"max_grammar_size": 100_000, "max_lexer_states": 25_000, "verbose_errors": False}
_STACK_BYTES: Final = 128 << 20  # of address space; memory is taken page by page as it is used
_stack_size = threading.Lock()

ResultT = TypeVar("ResultT")


class GrammarCompiler:
    """Makes grammars for one model's answers. Making a compiler takes up to a second, making a grammar milliseconds.

    Args:
        model: the model whose answers follow the grammars. Its tokenizer says which text a token stands for, and its
            manifest which tokens end a text.

    Raises:
        UnavailableError: llguidance is missing.
        InputError: the model has no end-of-text token, or llguidance cannot read its tokenizer.
    """

    def __init__(self, model: Model) -> None:
        self._llguidance = _import_llguidance()
        self._eos_token_ids = model.manifest.generation.eos_token_ids
        if not self._eos_token_ids:
            raise InputError("this bundle names no end-of-text token, which a grammar needs to end an answer")
        try:
            self._tokenizer = self._llguidance.LLTokenizer(
                model.tokenizer.to_json(),
                n_vocab=max(model.manifest.target.vocabulary_size, model.tokenizer.vocabulary_size),
                eos_token=list(self._eos_token_ids),
            )
        except ValueError as error:
            raise InputError(f"llguidance cannot read this bundle's tokenizer: {one_line(error)}") from error

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """A grammar for JSON that a schema describes, with its properties in the schema's order.

        Args:
            schema: the schema. Keywords that llguidance does not enforce are refused.

        Raises:
            InputError: it is no schema, or it is too long or too complex.
        """
        if not isinstance(schema, Mapping):
            raise InputError(f"a JSON schema must be an object, got {type(schema).__name__}")
        try:
            text = json.dumps(dict(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"the schema cannot be written as JSON: {one_line(error)}") from error
        return self._compile("JSON schema", text, self._llguidance.LLMatcher.grammar_from_json_schema)

    def json_object(self) -> Grammar:
        """A grammar for any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """A grammar for text that a regular expression matches as a whole.

        Args:
            pattern: the expression, in the syntax of Rust's regex package.

        Raises:
            InputError: it is no such expression, or it is too long or too complex.
        """
        return self._compile("regular expression", pattern, self._llguidance.LLMatcher.grammar_from_regex)

    def lark(self, grammar: str) -> Grammar:
        """A grammar for text of a context-free language.

        Args:
            grammar: the language, in llguidance's variety of Lark.

        Raises:
            InputError: it is no such grammar, or it is too long or too complex.
        """
        return self._compile("Lark grammar", grammar, self._llguidance.LLMatcher.grammar_from_lark)

    def _compile(self, kind: str, text: str, read: Callable[[str], str]) -> Grammar:
        if not isinstance(text, str):
            raise InputError(f"a {kind} must be text, got {type(text).__name__}")
        if len(text) > MAX_GRAMMAR_CHARACTERS:
            raise InputError(f"a {kind} must have {MAX_GRAMMAR_CHARACTERS} characters or fewer, got {len(text)}")
        limits = self._llguidance.LLParserLimits(**_LIMITS)
        try:
            matcher = on_deep_stack(
                lambda: self._llguidance.LLMatcher(self._tokenizer, read(text), log_level=0, limits=limits)
            )
        except ValueError as error:
            raise _unfollowable(kind, error) from error
        first = matcher.deep_copy()
        first.compute_bitmask()  # a grammar that is too complex often shows it at the first token
        if first.is_error():
            raise _unfollowable(kind, first.get_error())
        return Grammar(matcher, frozenset(self._eos_token_ids))


class Grammar(Constraint):
    """A rule for the form of answers. A `GrammarCompiler` makes it, for any number of answers of its model.

    Args:
        matcher: llguidance's matcher before the first token.
        eos_token_ids: ids of the tokens that end a text.
    """

    def __init__(self, matcher: LLMatcher, eos_token_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids

    def start(self) -> ConstraintState:
        """The state of the grammar before an answer's first token."""
        return _GrammarState(self._matcher.deep_copy(), self._eos_token_ids)


class _GrammarState(ConstraintState):
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: LLMatcher, eos_token_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids
        self._ended = False

    def allowed(self) -> NDArray[np.bool_]:
        """Tokens that may continue the text, and those that end it where it may end; after the end, only those.

        Raises:
            InputError: the grammar needs more than the limits allow.
        """
        bits = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _unfollowable("grammar", self._matcher.get_error())
        return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little").view(np.bool_)

    def advance(self, token_id: int) -> None:
        """Take note of the answer's next token; tokens after the end are ignored.

        Raises:
            InputError: the token is not allowed, or following the grammar takes more than its limits.
        """
        if self._ended:
            return
        if not self._matcher.consume_token(token_id):
            raise _unfollowable("grammar", self._matcher.get_error())
        self._ended = token_id in self._eos_token_ids


def on_deep_stack(call: Callable[[], ResultT]) -> ResultT:
    """The result of `call`, or its exception, from a thread with 128 MiB of stack.

    llguidance follows rules that name other rules by recursion, and native code that overflows its stack ends the
    process.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        with _stack_size:
            usual = threading.stack_size(_STACK_BYTES)
            try:
                future = executor.submit(call)
            finally:
                threading.stack_size(usual)
        return future.result()


def _import_llguidance() -> ModuleType:
    try:
        import llguidance
    except ImportError as error:
        raise UnavailableError(
            f'a grammar needs the package llguidance: {error}; run: pip install "dovetail-ort[server]"'
        ) from error
    return llguidance


def _unfollowable(kind: str, reason: object) -> InputError:
    said = str(reason).replace("<non-verbose/>", "")
    return InputError(f"llguidance cannot follow this {kind}: {one_line(said)}")
