"""How a bundle is loaded: its context and threads, who drafts, and what runs on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from dovetail_ort_runtime.checks import must_be_at_least, must_be_one_of, parse_bytes
from dovetail_ort_runtime.drafting.drafter import Drafter, FeatureName
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import AUTO, CUDA, DEVICES
from dovetail_ort_runtime.errors import InputError

# Names of drafters, as the command line spells them.
OWN_HEAD: Final = "dgf"
LANGUAGE_MODEL: Final = "lm"
LOOKUP: Final = "lookup"
NO_DRAFTER: Final = "none"
DRAFTERS: Final = (AUTO, OWN_HEAD, LANGUAGE_MODEL, LOOKUP, NO_DRAFTER)
_WITH_DRAFT_BUNDLE: Final = (AUTO, LANGUAGE_MODEL)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """Settings of one loaded model; which files of the bundle are hashed is a setting of `Bundle`.

    Attributes:
        max_context: largest number of tokens of prompt and answer, 2 or more; the bundle's maximum if None.
        threads: number of threads that one forward uses, 1 or more; the usable physical cores if None.
        drafter: a drafter of your own, or a name. `dgf` is the bundle's own head, `lm` the smaller model in
            `draft_bundle`, `lookup` prompt lookup, `none` no speculation. `auto` is prompt lookup together with `lm`
            or `dgf` where the bundle has one. It warns if a native head cannot run because the library of native
            operators is missing.
        draft_bundle: directory or hub name of a smaller model's bundle with the same tokenizer. Its files are hashed
            as those of the target's bundle are.
        draft_shape: shape of every proposal, which a model then drafts alone. If None, a planner decides in each round
            how much is drafted, by times of this machine.
        tune: whether forwards are timed thoroughly, which takes up to a minute, even if times are stored already. If
            False, stored times are used, or a short measurement is made and stored.
        drafter_device: device of a model that drafts: `cpu`, `cuda`, or `auto`, which is CUDA for a head in fp16 where
            CUDA can be used.
        target_layers_on_gpu: number of the target's first blocks on a GPU: 0, the number that the export put into a
            graph of their own, or `auto`, which is that number where CUDA can be used. All other blocks are on the CPU.
        vram_limit: bytes that target and drafter together may take on a GPU, above 0, as a number or as a text such as
            `3GB`; no limit if None.
    """

    max_context: int | None = None
    threads: int | None = None
    drafter: Drafter | str = AUTO
    draft_bundle: str | Path | None = None
    draft_shape: ChainShape | TreeShape | None = None
    tune: bool = False
    drafter_device: str = AUTO
    target_layers_on_gpu: int | str = AUTO
    vram_limit: int | str | None = None

    def __post_init__(self) -> None:
        must_be_at_least("max_context", self.max_context, 2)
        must_be_at_least("threads", self.threads, 1)
        self._check_drafter()
        self._check_draft_bundle()
        if not isinstance(self.draft_shape, ChainShape | TreeShape | None):
            found = type(self.draft_shape).__name__
            raise InputError(f"draft_shape must be a ChainShape or a TreeShape, got an object of {found}")
        layers = self.target_layers_on_gpu
        if isinstance(layers, str) and layers != AUTO:
            raise InputError(f"target_layers_on_gpu must be {AUTO} or a number, got {layers!r}")
        must_be_at_least("vram_limit", self.vram_bytes, 1)

    @property
    def vram_bytes(self) -> int | None:
        """The limit of GPU memory as a number of bytes, None without one."""
        if isinstance(self.vram_limit, str):
            return parse_bytes(self.vram_limit)
        return self.vram_limit

    def _check_drafter(self) -> None:
        if not isinstance(self.drafter, str | Drafter):
            raise InputError(
                f"the drafter must be a name or a Drafter, got an object of {type(self.drafter).__name__}; "
                "derive its class from Drafter"
            )
        if isinstance(self.drafter, str):
            must_be_one_of("the drafter", self.drafter, DRAFTERS)
        else:
            must_be_one_of("what the drafter reads", self.drafter.reads, get_args(FeatureName))
        must_be_one_of("the drafter's device", self.drafter_device, DEVICES)

    def _check_draft_bundle(self) -> None:
        if self.draft_bundle is None:
            if self.drafter == LANGUAGE_MODEL:
                raise InputError("the drafter lm needs the bundle of a smaller model; name one with --draft-bundle")
            return
        if self.drafter not in _WITH_DRAFT_BUNDLE:
            name = self.drafter if isinstance(self.drafter, str) else type(self.drafter).__name__
            raise InputError(f"only the drafter lm uses a draft bundle; leave out the bundle or the drafter {name}")
        if self.drafter_device == CUDA:
            raise InputError("the drafter lm runs on the CPU only; use the drafter dgf, or the device auto")
        if isinstance(self.draft_shape, TreeShape):
            raise InputError("the drafter lm drafts chains only, not trees; use --chain instead of --tree")
