"""Whether a checkpoint has all tensors that its model needs, and no others but those known to be unneeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from dovetail_ort_export.source.checkpoint import Checkpoint
from dovetail_ort_export.source.wrong_weights import WrongWeights, cause_of_wrong_weights
from dovetail_ort_runtime.arrays import Shape
from dovetail_ort_runtime.errors import SourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedWeights:
    """Tensors in the files that the model has no use for.

    Attributes:
        unneeded: names by the reason why no model needs them.
        ignored: names that match a pattern that the user gave.
    """

    unneeded: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Tensors that were not used, a line for each reason."""
        reasons = dict(self.unneeded)
        if self.ignored:
            reasons["ignored on request"] = self.ignored
        return tuple(f"{_shown(names)} not used: {reason}" for reason, names in reasons.items())


def check_weights(
    checkpoint: Checkpoint,
    expected: Mapping[str, Shape],
    unneeded: Callable[[str], str | None],
    ignored: Sequence[str] = (),
) -> UnusedWeights:
    """Accept a checkpoint that holds what a model needs, and nothing else that could matter.

    Args:
        checkpoint: the model's files.
        expected: shapes of the model's weights by name.
        unneeded: function from a tensor's name to the reason why no model needs it, or None.
        ignored: patterns with `*` and `?` for names of further tensors that may be there.

    Raises:
        SourceError: weights are missing, unexpected or of another shape or number type; the message names the first
            three of each and the likeliest cause.
    """
    further = sorted(checkpoint.tensors.keys() - expected.keys())
    unused = _unused(further, unneeded, ignored)
    known = {*unused.ignored, *(name for names in unused.unneeded.values() for name in names)}
    wrong = WrongWeights(
        missing=tuple(name for name in expected if name not in checkpoint.tensors),
        unexpected=tuple(name for name in further if name not in known),
        misshaped=_misshaped(checkpoint, expected),
    )
    if wrong.missing or wrong.unexpected or wrong.misshaped:
        raise SourceError(
            f"the weights must be those that the configuration asks for, got {'; '.join(_findings(wrong))}: "
            f"{cause_of_wrong_weights(checkpoint.config, wrong)}"
        )
    _check_number_types(checkpoint, expected)
    return unused


def _unused(names: Sequence[str], unneeded: Callable[[str], str | None], ignored: Sequence[str]) -> UnusedWeights:
    """Those of the names that the user ignores, or that no model needs."""
    by_reason: dict[str, list[str]] = {}
    passed_over = []
    for name in names:
        reason = unneeded(name)
        if any(fnmatchcase(name, pattern) for pattern in ignored):
            passed_over.append(name)
        elif reason is not None:
            by_reason.setdefault(reason, []).append(name)
    reasons = {reason: tuple(names) for reason, names in by_reason.items()}
    return UnusedWeights(unneeded=reasons, ignored=tuple(passed_over))


def _misshaped(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> tuple[tuple[str, Shape, Shape], ...]:
    """Name, expected shape and stored shape of each weight whose shapes differ."""
    stored = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    return tuple(
        (name, shape, stored[name]) for name, shape in expected.items() if name in stored and stored[name] != shape
    )


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse a tensor with NaN or infinity. It is read once, and not copied.

    Raises:
        SourceError: the tensor has such a value; the message names the tensor.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    # Both are NaN if anything is.
    low, high = tensor.aminmax()
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise SourceError(
            f"{name} has values that are not finite (NaN or infinity); the file is damaged or the model's training "
            "failed: download it again, or take another checkpoint"
        )


def _check_number_types(checkpoint: Checkpoint, expected: Mapping[str, Shape]) -> None:
    readable = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    for name in expected:
        dtype = checkpoint.tensors[name].dtype
        if dtype not in readable:
            raise SourceError(
                f"{name} must be in float64, float32, float16 or bfloat16, got {str(dtype).removeprefix('torch.')}; "
                "take the model before it was quantised"
            )


def _findings(wrong: WrongWeights) -> list[str]:
    """What is wrong, a phrase for each kind."""
    shapes = [
        f"{name} of {_dimensions(found)} in place of {_dimensions(shape)}" for name, shape, found in wrong.misshaped
    ]
    kinds = (("missing", wrong.missing), ("unexpected", wrong.unexpected), ("of another shape", shapes))
    return [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds if names]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shown(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} weights ({_first(names)})"


def _dimensions(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "one number"
