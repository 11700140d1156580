"""What an export can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.devices import AUTO
from dovetail_ort_runtime.errors import InputError

PRECISIONS: Final = ("int8", "fp32")
DRAFTER_PRECISIONS: Final = ("int8", "fp16", "fp32")
INT8_FORMATS: Final = ("auto", "row", "row-unsigned", "block")
LEAST_CALIBRATION_TOKENS: Final = 64
_LEAST: Final = {"calibration_tokens": LEAST_CALIBRATION_TOKENS, "seed": 0, "gpu_layers": 0, "max_context": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Settings of one export.

    Attributes:
        recipes: TOML files with the passes that make the graph, in the place of precision and format. Several are built
            and timed in turns, as the INT8 formats are, and the faster one is kept.
        precision: `int8`, or `fp32` for comparison.
        int8_format: `block`, 8-bit weights in blocks of 32; `row`, 8-bit weights with a scale for each output and
            activations with one for each row, and on a processor without VNNI `row-unsigned`, the same with weights
            that such a processor multiplies rightly; or `auto`, the one that is faster on this machine.
        calibration_text: UTF-8 text on which the row format measures activations; by default the model writes it.
        calibration_tokens: 64 or more; tokens of that text.
        alpha: 0 to 1; how much of the activations' range the row format moves into the weights.
        seed: 0 or more, of the model's own writing.
        max_context: largest number of tokens of prompt and answer; the model's own maximum by default. More where
            YaRN's factor reaches further.
        ignore_settings: keys of the configuration that are passed over although nothing is known of them.
        ignore_weights: patterns of tensors in the files that have no place in the model and are passed over.
        gpu_layers: 0 or more; so many blocks, with the embedding, go into a graph of their own in fp16, for a GPU.
            Or `auto`, as many as `vram_limit` holds.
        vram_limit: bytes of a GPU that these blocks may take, with their cache; leave room for a drafter.
        check_text: UTF-8 text on which the bundle is compared with the model; a built-in page by default.
        force: replace the bundle that stands at the output path.
    """

    recipes: tuple[Path, ...] = ()
    precision: str = "int8"
    int8_format: str = "auto"
    calibration_text: Path | None = None
    calibration_tokens: int = 1024
    alpha: float = 0.7
    seed: int = 0
    max_context: int | None = None
    ignore_settings: tuple[str, ...] = ()
    ignore_weights: tuple[str, ...] = ()
    gpu_layers: int | str = 0
    vram_limit: int | None = None
    check_text: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("precision", PRECISIONS), ("int8_format", INT8_FORMATS)):
            if (value := getattr(self, name)) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if self.recipes and (self.precision != "int8" or self.int8_format != "auto"):
            raise InputError("a recipe must be given without precision and int8_format, got one of them; it says both")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha must be between 0 and 1, got {self.alpha}")
        if isinstance(self.gpu_layers, str) and self.gpu_layers != AUTO:
            raise InputError(f"gpu_layers must be 0 or more, or {AUTO}, got {self.gpu_layers}")
        if (self.gpu_layers == AUTO) != (self.vram_limit is not None):
            raise InputError(
                f"vram_limit must be given with gpu_layers {AUTO} and with nothing else, got {self.vram_limit} "
                f"with {self.gpu_layers}"
            )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise InputError(f"{name} must be {least} or more, got {value}")
