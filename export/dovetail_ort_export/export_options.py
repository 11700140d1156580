"""What an export can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.errors import InputError

PRECISIONS: Final = ("int8", "fp32")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Settings of one export.

    Attributes:
        precision: `int8`, 8-bit weights in blocks of 32, or `fp32`, for comparison.
        max_context: largest number of tokens of prompt and answer; the model's own maximum by default.
        check_text: UTF-8 text on which the bundle is compared with the model; a built-in page by default.
        force: replace the bundle that stands at the output path.
    """

    precision: str = "int8"
    max_context: int | None = None
    check_text: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.max_context is not None and self.max_context < 2:
            raise InputError(f"max_context must be 2 or more, got {self.max_context}")
