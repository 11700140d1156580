"""Constraints from JSON schemas, regular expressions and Lark grammars, by llguidance. It knows no decoding."""

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

# Grammars come from strangers: these bound the time and the memory of compiling one and of each step under it.
MAX_GRAMMAR_CHARACTERS: Final = 20_000
_LIMITS: Final = {"max_grammar_size": 100_000, "max_lexer_states": 25_000, "verbose_errors": False}
_STACK_BYTES: Final = 128 << 20  # address space; memory comes page by page as it is touched
_stack_size = threading.Lock()

ResultT = TypeVar("ResultT")


class GrammarCompiler:
    """Makes grammars for one model's answers; making the compiler takes up to a second, a grammar milliseconds.

    Args:
        model: its tokenizer says what a token writes, its manifest which tokens end a text.

    Raises:
        UnavailableError: llguidance is missing.
        InputError: the model has no end-of-text token, or a tokenizer that llguidance cannot read.
    """

    def __init__(self, model: Model) -> None:
        self._llguidance = _import_llguidance()
        self._eos_token_ids = model.manifest.generation.eos_token_ids
        if not self._eos_token_ids:
            raise InputError("a model must have an end-of-text token to follow a grammar, got a bundle without one")
        try:
            self._tokenizer = self._llguidance.LLTokenizer(
                model.tokenizer.to_json(),
                n_vocab=max(model.manifest.target.vocabulary_size, model.tokenizer.vocabulary_size),
                eos_token=list(self._eos_token_ids),
            )
        except ValueError as error:
            raise InputError(f"the tokenizer must be one that llguidance reads, got: {one_line(error)}") from error

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """JSON that a schema describes, properties in the schema's order.

        Args:
            schema: keywords that llguidance does not enforce are refused.

        Raises:
            InputError: it is no schema, or too long or too complex a one; likewise for the other kinds.
        """
        if not isinstance(schema, Mapping):
            raise InputError(f"a JSON schema must be an object, got {type(schema).__name__}")
        try:
            text = json.dumps(dict(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"a JSON schema must be JSON, got: {one_line(error)}") from error
        return self._compile("JSON schema", text, self._llguidance.LLMatcher.grammar_from_json_schema)

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """Text that a regular expression matches as a whole, in the syntax of Rust's regex package."""
        return self._compile("regular expression", pattern, self._llguidance.LLMatcher.grammar_from_regex)

    def lark(self, grammar: str) -> Grammar:
        """Text of a context-free grammar in llguidance's variety of Lark."""
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
        first.compute_bitmask()  # what is too complex often shows at the first token
        if first.is_error():
            raise _unfollowable(kind, first.get_error())
        return Grammar(matcher, frozenset(self._eos_token_ids))


class Grammar(Constraint):
    """What an answer must be; made by a `GrammarCompiler`, for any number of answers of its model."""

    def __init__(self, matcher: LLMatcher, eos_token_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids

    def start(self) -> ConstraintState:
        """The grammar before an answer's first token."""
        return _GrammarState(self._matcher.deep_copy(), self._eos_token_ids)


class _GrammarState(ConstraintState):
    """One answer's place in its grammar."""

    def __init__(self, matcher: LLMatcher, eos_token_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids
        self._ended = False

    def allowed(self) -> NDArray[np.bool_]:
        """Tokens by which the text may go on, and those that end it where it may end; the latter alone after the end.

        Raises:
            InputError: following the grammar takes more than its limits.
        """
        bits = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _unfollowable("grammar", self._matcher.get_error())
        return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little").view(np.bool_)

    def advance(self, token_id: int) -> None:
        """Go on by one token; behind the end there is no place to go to.

        Raises:
            InputError: the token is not allowed, or following the grammar takes more than its limits.
        """
        if self._ended:
            return
        if not self._matcher.consume_token(token_id):
            raise _unfollowable("grammar", self._matcher.get_error())
        self._ended = token_id in self._eos_token_ids


def on_deep_stack(call: Callable[[], ResultT]) -> ResultT:
    """What `call` returns or raises, called in a thread with 128 MiB of stack.

    Rules that name rules are followed by recursion, and native code that overflows its stack ends the process.
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
            f"llguidance must be importable to follow a grammar, got: {error}; run: pip install 'dovetail-ort[server]'"
        ) from error
    return llguidance


def _unfollowable(kind: str, reason: object) -> InputError:
    said = str(reason).replace("<non-verbose/>", "")
    return InputError(f"a {kind} must be one that llguidance can follow, got: {one_line(said)}")
