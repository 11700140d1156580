"""Settings of an export. It reads no file and knows no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.bundle.formats import FP16, FP32, GRAPH_FORMATS, INT4, INT8, KV_CACHES, NATIVE, PORTABLE
from dovetail_ort_runtime.checks import must_be, must_be_at_least, must_be_one_of
from dovetail_ort_runtime.engine.devices import AUTO
from dovetail_ort_runtime.errors import InputError

# A function that is called with one line of text for each step of something that takes time.
Report = Callable[[str], None]

PRECISIONS: Final = (INT8, INT4, FP32)
AUTO_PRECISION: Final = "auto"
DRAFTER_PRECISIONS: Final = (AUTO_PRECISION, INT4, INT8, FP16, FP32)
AUTO_FORMAT: Final = "auto"
BOTH_FORMATS: Final = "both"
FORMATS: Final = (AUTO_FORMAT, *GRAPH_FORMATS, BOTH_FORMATS)
# Rows that one forward of an exported graph may have. It is no option; every manifest states it.
MAX_ROWS: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Settings of one export.

    Attributes:
        recipes: TOML files with the list of graph passes that make the graph, instead of precision, format and
            kv_cache: one file, or a native and a portable one for a bundle with both.
        precision: number format of most weights: `int8`; `int4`, which is native, with embedding and logits in 8 bits,
            and keeps the values of GGUF's Q4_0 and Q4_1; or `fp32` for comparison, which is portable.
        format: `native`, 8-bit weights in this package's own operators; `portable`, 8-bit weights in blocks of 32 for a
            stock ONNX Runtime; `both` in one bundle; or `auto`, native where the library of operators is.
        kv_cache: number format of a native target's keys and values, `fp16` or `fp32`. Where the measured keys and
            values are too large for fp16, they are kept in fp32.
        max_context: largest number of tokens of prompt and answer, 2 or more; None takes the model's own maximum.
            It may be above the model's maximum where YaRN's factor reaches further.
        ignore_settings: keys of the configuration that export ignores although it does not know them.
        ignore_weights: patterns with `*` and `?` for names of tensors that export ignores although it does not know
            them.
        gpu_layers: number of first blocks that are put, with the embedding, into a graph of their own in fp16, for a
            GPU; 0 or more, or `auto` for as many as fit into `vram_limit`.
        vram_limit: bytes of GPU memory that these blocks may take, with their cache; leave room for a drafter. None if
            `gpu_layers` is a number.
        check_text: UTF-8 file on whose text the bundle is compared with the model, and keys and values are measured;
            None takes a built-in page.
        force: whether a bundle at the output path is replaced.
    """

    recipes: tuple[Path, ...] = ()
    precision: str = PRECISIONS[0]
    format: str = AUTO_FORMAT
    kv_cache: str = KV_CACHES[0]
    max_context: int | None = None
    ignore_settings: tuple[str, ...] = ()
    ignore_weights: tuple[str, ...] = ()
    gpu_layers: int | str = 0
    vram_limit: int | None = None
    check_text: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        must_be_one_of("precision", self.precision, PRECISIONS)
        must_be_one_of("format", self.format, FORMATS)
        must_be_one_of("kv_cache", self.kv_cache, KV_CACHES)
        self._check_recipes()
        self._check_format()
        self._check_gpu_layers()
        must_be_at_least("max_context", self.max_context, 2)

    def _check_recipes(self) -> None:
        changed = {
            "precision": self.precision != PRECISIONS[0],
            "format": self.format != FORMATS[0],
            "kv_cache": self.kv_cache != KV_CACHES[0],
        }
        given = [name for name, is_changed in changed.items() if is_changed]
        if self.recipes and given:
            raise InputError(f"a recipe says precision, format and kv_cache itself; leave out {', '.join(given)}")

    def _check_format(self) -> None:
        if self.precision == FP32:
            holds = self.format in (AUTO_FORMAT, PORTABLE)
            must_be("format", f"{PORTABLE} with the precision {FP32}", self.format, holds=holds)
        if self.precision == INT4:
            holds = self.format in (AUTO_FORMAT, NATIVE)
            must_be("format", f"{NATIVE} with the precision {INT4}", self.format, holds=holds)

    def _check_gpu_layers(self) -> None:
        if not isinstance(self.gpu_layers, str):
            must_be_at_least("gpu_layers", self.gpu_layers, 0)
        elif self.gpu_layers != AUTO:
            raise InputError(f"gpu_layers must be 0 or more, or {AUTO}, got {self.gpu_layers}")
        if self.gpu_layers == AUTO and self.vram_limit is None:
            raise InputError(f"gpu_layers {AUTO} needs vram_limit, the bytes that the blocks may take; give it too")
        if self.gpu_layers != AUTO and self.vram_limit is not None:
            raise InputError(f"vram_limit is for gpu_layers {AUTO}, got gpu_layers {self.gpu_layers}; leave one out")
