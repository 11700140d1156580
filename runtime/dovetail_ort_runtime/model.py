"""The loaded model: text, messages or ids in, an answer out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.manifest import TargetEntry
from dovetail_ort_runtime.decoding.answer_stream import Answer
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.decoding.turn_queue import Turns
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import AUTO, CPU, CUDA, has_cuda, parse_bytes
from dovetail_ort_runtime.engine.kv_cache import cache_bytes
from dovetail_ort_runtime.engine.row_invariance import holds_here
from dovetail_ort_runtime.engine.session import SessionReport, weight_bytes
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.engine.vram_share import VramShare
from dovetail_ort_runtime.errors import ContextLengthError, InputError
from dovetail_ort_runtime.loading import drafter_bytes_on_gpu, make_drafter
from dovetail_ort_runtime.machine.process_memory import return_freed_memory
from dovetail_ort_runtime.options import GenerationOptions
from dovetail_ort_runtime.planning.planner import Planner
from dovetail_ort_runtime.planning.time_curves import TimeCurves
from dovetail_ort_runtime.results import Generation, Piece
from dovetail_ort_runtime.text.messages import Prompt
from dovetail_ort_runtime.text.prompt_reader import PromptReader
from dovetail_ort_runtime.text.tokenizer import Tokenizer


class Model:
    """A loaded bundle; a context manager that closes it at the end.

    Any number of threads may ask for answers. A model has one KV cache, so they are given one at a time, first come,
    first served, and each reads again what its prompt does not share with the answer before it. Threads that must
    answer at once need a model each, with weights and cache of its own.

    A model belongs to the process that loaded it: in a child of `os.fork` its use raises `ModelUseError`. The child may
    load the bundle again, and must end by `os._exit`, as those of `multiprocessing` do: at a usual exit ONNX Runtime
    waits for a thread that only the parent has. Better start processes with `spawn`.

    Args:
        bundle: the opened bundle.
        max_context: largest number of tokens of prompt and answer, at most the bundle's maximum (the default).
        threads: threads of the target's forward; the usable physical cores by default.
        drafter: a drafter, or the name of one as in `make_drafter`.
        draft_bundle: of the drafter `lm`.
        draft_shape: of all proposals, in place of what pays best in each round.
        tune: measure thoroughly on this machine, which takes up to a minute, and store the times; without stored ones a
            short measurement is made.
        drafter_device: `cpu`, `cuda`, or `auto`: CUDA for a drafter in fp16 where it can be used.
        target_layers_on_gpu: 0, the number of blocks that the export put into a graph of their own, or `auto`: these
            where CUDA can be used. All other blocks are on the CPU.
        vram_limit: what target and drafter may take on a GPU, in bytes or as a text such as `3GB`.

    Attributes:
        manifest: what the bundle says of itself.
        exact: whether greedy answers are those of decoding without speculation. A native target's are, on every
            machine. For any other, export found whether a row's result is independent of the rows beside it, and a
            short measurement at load says whether that holds here, too; if not, loading warns.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        max_context: int | None = None,
        threads: int | None = None,
        drafter: Drafter | str = "auto",
        draft_bundle: str | Path | None = None,
        draft_shape: ChainShape | TreeShape | None = None,
        tune: bool = False,
        drafter_device: str = AUTO,
        target_layers_on_gpu: int | str = AUTO,
        vram_limit: int | str | None = None,
    ) -> None:
        _check_drafter(drafter)
        self.manifest = bundle.manifest
        target = self.manifest.target
        reader = PromptReader(bundle.tokenizer(), bundle.chat_template(), target.vocabulary_size)
        if isinstance(vram_limit, str):
            vram_limit = parse_bytes(vram_limit)
        front_device = _front_device(target, target_layers_on_gpu)
        capacity = target.max_context if max_context is None else max_context
        share = VramShare.of(
            vram_limit,
            front_bytes=_front_bytes(bundle, capacity) if front_device == CUDA else 0,
            drafter_bytes=drafter_bytes_on_gpu(drafter, bundle, draft_bundle, drafter_device, capacity),
        )
        loaded = Target(
            bundle.path(target.graph),
            target,
            max_context=max_context,
            threads=threads,
            front_device=front_device,
            vram_limit=share.front,
        )
        self.exact = target.exact and _exact_here(loaded)
        if isinstance(drafter, str):
            drafter = make_drafter(
                drafter,
                bundle,
                loaded,
                draft_bundle=draft_bundle,
                shape=draft_shape,
                tune=tune,
                device=drafter_device,
                vram_limit=share.drafter,
            )
        self._turns = Turns()
        self._memory: _Memory | None = _Memory(Decoder(loaded, drafter), reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload: weights, cache, tokenizer and threads are gone when it returns; closed again, nothing happens.

        The round that runs is waited for, or the reading of a prompt. Its answer and those that wait raise
        `ModelUseError` when they are asked for their next piece, as does every later use. In a child of `os.fork`
        closing does nothing, for the memory is the parent's.
        """
        if self._turns.belongs_here:
            self._turns.close(self._unload)

    def _unload(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.decoder.rewind(0)  # a drafter of the caller's is as new, one with a thread ends its work
            del memory
            return_freed_memory()

    @property
    def _loaded(self) -> _Memory:
        memory = self._memory
        self._turns.check()
        assert memory is not None, "it is unloaded when the turns are closed"
        return memory

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
        """Threads of the target's forward."""
        return self._decoder.target.threads

    @property
    def curves(self) -> TimeCurves | None:
        """The times that drafting is planned with, if it is."""
        drafter = self._decoder.drafter
        return drafter.curves if isinstance(drafter, Planner) else None

    def sessions(self) -> tuple[SessionReport, ...]:
        """Where target and drafter run."""
        return (*self._decoder.target.reports(), *self._decoder.drafter.reports())

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be given as a prompt."""
        return self._loaded.reader.template is not None

    def reset(self) -> None:
        """Forget the last conversation, in a turn: the next prompt is read from its first token."""
        self._turns.run(lambda: self._decoder.rewind(0))

    def generate(
        self,
        prompt: Prompt,
        options: GenerationOptions | None = None,
        *,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Generation:
        """The whole answer; arguments and errors as in `stream`."""
        *_, last = self.stream(prompt, options, template_arguments=template_arguments)
        assert last.generation is not None
        return last.generation

    def stream(
        self,
        prompt: Prompt,
        options: GenerationOptions | None = None,
        *,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Generator[Piece, None, None]:
        """Answer token by token.

        The generator waits for its turn when its first piece is asked for, and gives it back behind the last piece,
        with an exception, with its `close()`, or when nobody refers to it any more. Any thread may advance it. As long
        as it has the turn, other threads wait for theirs, and the thread that last advanced it gets a `ModelUseError`
        for asking for another answer: it would wait for itself.

        Args:
            prompt: text to continue, messages for the chat template, or token ids.
            options: the defaults if None.
            template_arguments: what the chat template of messages is given beside them: its own switches, such as
                `{"enable_thinking": False}`, and `tools` or `documents`, as JSON values.

        Raises:
            InputError: the prompt is empty, not of these kinds, or has an id outside the vocabulary; or a template
                argument is malformed, or goes with a prompt that is no conversation.
            ContextLengthError: prompt and one new token do not fit `max_context`.
            ModelUseError: the model is closed or another process's, or as above.
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
        """What the target reads for a prompt; arguments and errors as in `stream`."""
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
        answer = Answer(
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
            result = self._decoder.step(min(options.max_draft_tokens, left - 1, self._decoder.target.max_rows - 1))
            answer.count(result)
            yield from answer.pieces(result.token_ids, result.logprobs, room)


class _Memory(NamedTuple):
    """What closing a model frees."""

    decoder: Decoder
    reader: PromptReader


def load_model(
    path: str | Path,
    *,
    max_context: int | None = None,
    threads: int | None = None,
    drafter: Drafter | str = "auto",
    draft_bundle: str | Path | None = None,
    draft_shape: ChainShape | TreeShape | None = None,
    tune: bool = False,
    drafter_device: str = AUTO,
    target_layers_on_gpu: int | str = AUTO,
    vram_limit: int | str | None = None,
    verify: str = "small",
) -> Model:
    """Open the bundle at a path or of a name on the hub and load it; arguments as in `Model` and `Bundle`.

    Raises:
        BundleError: the bundle is missing, damaged or of another version.
        UnavailableError: ONNX Runtime is missing.
        InputError: an argument is out of bounds, or the drafter is not to be had.
    """
    return Model(
        Bundle(path, verify),
        max_context=max_context,
        threads=threads,
        drafter=drafter,
        draft_bundle=draft_bundle,
        draft_shape=draft_shape,
        tune=tune,
        drafter_device=drafter_device,
        target_layers_on_gpu=target_layers_on_gpu,
        vram_limit=vram_limit,
    )


def _front_device(entry: TargetEntry, layers_on_gpu: int | str) -> str:
    number = entry.front_layers
    if layers_on_gpu == AUTO:
        return CUDA if number and has_cuda() else CPU
    if layers_on_gpu not in (0, number):
        raise InputError(
            f"target_layers_on_gpu must be auto, 0 or the {number} that this bundle was cut for, got {layers_on_gpu}; "
            "export it with another --gpu-layers"
        )
    return CUDA if layers_on_gpu else CPU


def _check_drafter(drafter: object) -> None:
    if not isinstance(drafter, (str, Drafter)):
        raise InputError(
            f"the drafter must be a name or a Drafter, got an object of {type(drafter).__name__}; "
            "derive its class from Drafter"
        )


def _exact_here(target: Target) -> bool:
    if holds_here(target):
        return True
    warnings.warn(
        "the bundle was exact where it was exported and is not here: answers may differ from those without "
        "speculation; see dovetail-ort doctor BUNDLE",
        stacklevel=2,
    )
    return False


def _front_bytes(bundle: Bundle, capacity: int) -> int:
    """Weights and cache of the first blocks."""
    entry = bundle.manifest.target
    assert entry.front_graph is not None, "blocks are on a GPU in a graph of their own"
    cache = cache_bytes(entry.front_layers, entry.num_kv_heads, capacity, entry.head_size, np.float16)
    return weight_bytes(bundle.path(entry.graph).with_name(entry.front_graph)) + cache
