"""The open model: text, messages or token ids in, an answer out. How it was loaded is not its concern."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from dovetail_ort_runtime.bundle.bundle import Bundle, Verification
from dovetail_ort_runtime.decoding.answer_stream import AnswerStream
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.decoding.turn_queue import TurnQueue
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.errors import ContextLengthError, InputError
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.loading.loaded_bundle import LoadedBundle, load_bundle
from dovetail_ort_runtime.machine.process_memory import return_freed_memory
from dovetail_ort_runtime.options import GenerationOptions
from dovetail_ort_runtime.planning.planner import Planner
from dovetail_ort_runtime.planning.time_curves import TimeCurves
from dovetail_ort_runtime.results import Generation, Piece
from dovetail_ort_runtime.text.messages import Prompt
from dovetail_ort_runtime.text.tokenizer import Tokenizer


class Model:
    """A loaded bundle; a context manager that closes it at the end.

    Any number of threads may ask for answers. A model has one KV cache, so it gives one answer at a time, in the order
    in which they were asked for. Each answer reads what its prompt does not share with the answer before it. Threads
    that must answer at once need one model each, with its own weights and cache.

    A model belongs to the process that loaded it. In a child of `os.fork` every use raises `ModelUseError`. The child
    may load the bundle again, and must end by `os._exit`, as children of `multiprocessing` do: at a usual exit ONNX
    Runtime waits for a thread that only the parent has. It is better to start processes with `spawn`.

    Args:
        bundle: the opened bundle.
        options: context, threads, drafter and devices; the defaults if None.

    Raises:
        UnavailableError: a device or a library that the options or the bundle need is missing.
        InputError: an option does not fit the bundle.
        BundleError: a graph does not fit the manifest, or the draft bundle is missing or damaged.

    Attributes:
        manifest: what the bundle says of itself.
        exact: whether greedy answers are those of decoding without speculation. A native target's are, on every
            machine. For any other, export measured whether it is batch-invariant, and loading measures briefly whether
            that holds on this machine; if not, loading warns.
    """

    def __init__(self, bundle: Bundle, options: LoadOptions | None = None) -> None:
        self.manifest = bundle.manifest
        loaded = load_bundle(bundle, options or LoadOptions())
        self.exact = loaded.exact
        self._turns = TurnQueue()
        self._kept: LoadedBundle | None = loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload: weights, cache, tokenizer and threads are gone when it returns. Closing again does nothing.

        It waits for the round that runs, or for the reading of a prompt. That answer and all answers that wait raise
        `ModelUseError` when they are asked for their next piece, as does every later use. In a child of `os.fork`
        closing does nothing, because the memory is the parent's.
        """
        if self._turns.belongs_here:
            self._turns.close(self._unload)

    def _unload(self) -> None:
        loaded = self._kept
        self._kept = None
        if loaded is None:
            return
        loaded.decoder.rewind(0)  # the caller's drafter can be used again, and a drafting thread ends
        del loaded
        return_freed_memory()

    @property
    def _loaded(self) -> LoadedBundle:
        loaded = self._kept
        self._turns.check()
        assert loaded is not None, "it is unloaded when the turns are closed"
        return loaded

    @property
    def _decoder(self) -> Decoder:
        return self._loaded.decoder

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""
        return self._loaded.reader.tokenizer

    @property
    def max_context(self) -> int:
        """Largest number of tokens of prompt and answer."""
        return self._decoder.target.cache.capacity

    @property
    def threads(self) -> int:
        """Number of threads that one forward of the target uses."""
        return self._decoder.target.threads

    @property
    def curves(self) -> TimeCurves | None:
        """The times that the planner uses; None without a planner."""
        drafter = self._decoder.drafter
        return drafter.curves if isinstance(drafter, Planner) else None

    def sessions(self) -> tuple[SessionReport, ...]:
        """Where each session of target and drafter runs."""
        return (*self._decoder.target.reports(), *self._decoder.drafter.reports())

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be given as a prompt."""
        return self._loaded.reader.template is not None

    def reset(self) -> None:
        """Forget the last conversation: the next prompt is read from its first token. It waits for its turn."""
        self._turns.run(lambda: self._decoder.rewind(0))

    def generate(
        self,
        prompt: Prompt,
        options: GenerationOptions | None = None,
        *,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Generation:
        """The whole answer; arguments and errors are those of `stream`."""
        generation = None
        with closing(self.stream(prompt, options, template_arguments=template_arguments)) as pieces:
            for piece in pieces:
                generation = piece.generation
        assert generation is not None, "the last piece has it"
        return generation

    def stream(
        self,
        prompt: Prompt,
        options: GenerationOptions | None = None,
        *,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Generator[Piece, None, None]:
        """Answer token by token.

        The generator waits for its turn when its first piece is asked for. It gives the turn back after the last
        piece, with an exception, with its `close()`, or when nothing refers to it any more. Any thread may advance it.
        While it has the turn, other threads wait for theirs. The thread that last advanced it gets a `ModelUseError`
        if it asks for another answer, because it would wait for itself.

        Args:
            prompt: text to continue, messages for the chat template, or token ids.
            options: limits and sampling; the defaults if None.
            template_arguments: JSON values that the chat template gets together with the messages: its own switches,
                such as `{"enable_thinking": False}`, and `tools` or `documents`.

        Raises:
            InputError: the prompt is empty, of another kind, or has an id outside the vocabulary; or a template
                argument is malformed, or is given with a prompt that is no conversation.
            ContextLengthError: the prompt and one new token need more than `max_context` tokens.
            ModelUseError: the model is closed, belongs to another process, or the thread would wait for itself.
        """
        started = time.perf_counter()
        options = options or GenerationOptions()
        token_ids = self.token_ids(prompt, template_arguments=template_arguments)
        if len(token_ids) >= self.max_context:
            raise ContextLengthError(
                f"the prompt must have fewer than {self.max_context} tokens, got {len(token_ids)}; "
                "shorten it or load with a larger max_context"
            )
        return self._turns.each(self._pieces(token_ids, options, started))

    def token_ids(self, prompt: Prompt, *, template_arguments: Mapping[str, Any] | None = None) -> list[int]:
        """The token ids that the target reads for a prompt; arguments and errors are those of `stream`."""
        return self._loaded.reader.token_ids(prompt, template_arguments)

    def _pieces(self, token_ids: list[int], options: GenerationOptions, started: float) -> Iterator[Piece]:
        room = min(options.max_new_tokens, self.max_context - len(token_ids))
        settings = self.manifest.generation
        read_started = time.perf_counter()
        num_cached = self._decoder.begin(
            token_ids,
            options.sampling or settings.sampling(),
            constraint=options.constraint,
            logprobs=options.logprobs,
        )
        answer = AnswerStream(
            self.tokenizer,
            eos_token_ids=settings.eos_token_ids,
            stop=options.stop,
            skip_special_tokens=options.skip_special_tokens,
            prompt_tokens=len(token_ids),
            cached_tokens=num_cached,
            started=started,
            read_started=read_started,
        )
        yield from answer.pieces((self._decoder.root,), (self._decoder.root_logprobs,), room)
        while not answer.finished:
            left = room - answer.num_tokens
            most = min(options.max_draft_tokens, left - 1, self._decoder.target.max_rows - 1)
            result = self._decoder.next_round(most)
            answer.count(result)
            yield from answer.pieces(result.token_ids, result.logprobs, room)


def load_model(path: str | Path, *, verify: Verification = "small", **settings: Any) -> Model:
    """Open a bundle and load it.

    Args:
        path: directory of the bundle, or its name on the hub.
        verify: files whose checksums are compared with the manifest, as `Bundle` takes it.
        settings: attributes of `LoadOptions`.

    Raises:
        BundleError: the bundle is missing, damaged or of another version.
        UnavailableError: ONNX Runtime, a device or a library is missing.
        InputError: a setting has an unknown name, is out of bounds or does not fit the bundle.
    """
    names = [field.name for field in fields(LoadOptions)]
    unknown = [name for name in settings if name not in names]
    if unknown:
        raise InputError(
            f"a setting must be one of {', '.join(names)} and verify, got {', '.join(unknown)}; correct the name"
        )
    options = LoadOptions(**settings)
    return Model(Bundle(path, verify), options)
