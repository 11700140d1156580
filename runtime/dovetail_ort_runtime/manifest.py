"""What a bundle says of itself: `manifest.json`, version 1."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from dovetail_ort_runtime.errors import BundleError, BundleVersionError, InputError
from dovetail_ort_runtime.generation_options import SamplingOptions
from dovetail_ort_runtime.json_record import read_record
from dovetail_ort_runtime.measurements import Measurements, Provenance

FORMAT: Final = "dovetail-ort-bundle"
VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
# Logits of that many rows are held at a time, whatever a manifest asks for.
MOST_ROWS: Final = 1024
WEIGHT_FORMATS: Final = ("int8", "int4", "fp16", "fp32")
INT8_FORMATS: Final = ("row", "row-unsigned", "block")
FUSIONS: Final = ("gating", "concatenation")
LEAST_DIMENSIONS: Final = {
    **dict.fromkeys(("num_layers", "num_heads", "num_kv_heads", "head_size", "hidden_size", "vocabulary_size"), 1),
    **dict.fromkeys(("max_context", "max_rows"), 2),  # an exact pass has two rows at the least
}
LEAST_DRAFTER_DIMENSIONS: Final = dict.fromkeys(
    ("num_layers", "num_kv_heads", "head_size", "hidden_size", "draft_vocabulary_size", "max_rows"), 1
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of the bundle.

    Attributes:
        path: relative to the bundle, with forward slashes.
        num_bytes: size.
        sha256: 64 hexadecimal digits.
    """

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetEntry:
    """The target's graph and its dimensions.

    Attributes:
        graph: path of the ONNX file.
        family: the transformers model type it was exported from.
        precision: `int8`, `int4`, `fp16` or `fp32`, the number format of most weights.
        exact: whether the machine that exported it found a row's logits independent of the rows beside it.
        num_layers: L.
        num_heads: H.
        num_kv_heads: Hkv.
        head_size: D.
        hidden_size: E.
        vocabulary_size: V, the width of the logits.
        num_parameters: distinct weights of the model.
        max_context: largest number of tokens of prompt and answer.
        max_rows: largest number of tokens in one pass, at most `MOST_ROWS`.
        int8_format: what a scale stands for in an int8 graph: a `row`, a row with weights stored unsigned
            (`row-unsigned`), or a `block`; None in another precision.
        intermediate_size: inner width of an MLP; None in bundles of before there were drafters.
        weights_sha256: SHA-256 of the original model's weights, the same for every format and machine; None likewise.
        front_graph: the embedding and the first blocks in fp16, a file beside `graph`, which then begins with the block
            after them; None if the target is in one piece.
        front_chain_graph: the front graph without attention bias, for passes over chains, over the same weights; a file
            beside it, or None.
        front_layers: how many blocks those are, 0 or more.
        passes: what was done to the traced graph, in order, each as `name` or `name(option=value)`.
    """

    graph: str
    family: str
    precision: str
    exact: bool
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    hidden_size: int
    vocabulary_size: int
    num_parameters: int
    max_context: int
    max_rows: int
    int8_format: str | None = None
    intermediate_size: int | None = None
    weights_sha256: str | None = None
    front_graph: str | None = None
    front_chain_graph: str | None = None
    front_layers: int = 0
    passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_dimensions(self, LEAST_DIMENSIONS)
        _check_choice("precision", self.precision, WEIGHT_FORMATS)
        _check_choice("int8_format", self.int8_format, (*INT8_FORMATS, None))
        least, most = (0, 0) if self.front_graph is None else (1, self.num_layers - 1)
        if not least <= self.front_layers <= most:
            raise InputError(
                f"front_layers must be between 1 and {self.num_layers - 1} with a front_graph, and 0 without, "
                f"got {self.front_layers}"
            )
        if self.front_chain_graph is not None and self.front_graph is None:
            raise InputError(f"front_chain_graph must go with a front_graph, got {self.front_chain_graph!r} without")
        _check_beside(self.graph, front_graph=self.front_graph, front_chain_graph=self.front_chain_graph)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths of its graphs in the bundle, one to three."""
        return _with_those_beside(self.graph, self.front_graph, self.front_chain_graph)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrafterEntry:
    """The drafter's graph and its dimensions; D, Hkv and E are the target's.

    Attributes:
        graph: path of the ONNX file.
        precision: `int8`, `int4`, `fp16` or `fp32`, the number format of the weights; the cache of an fp16 drafter
            is in half precision.
        fusion: how feature and token are joined, `gating` or `concatenation`.
        target_sha256: `TargetEntry.weights_sha256` of the target whose hidden states the drafter reads.
        num_layers: M, its decoder blocks.
        num_kv_heads: Hkv.
        head_size: D.
        hidden_size: E.
        draft_vocabulary_size: Vd, tokens that can be drafted.
        num_parameters: weights of fusion and blocks.
        max_rows: largest number of rows in one pass, at most `MOST_ROWS`.
        chain_graph: the graph without attention bias, for chains, which gives the predicted states of scored rows only;
            over the same weights, a file beside it, or None.
        passes: as of the target.
    """

    graph: str
    precision: str
    fusion: str
    target_sha256: str
    num_layers: int
    num_kv_heads: int
    head_size: int
    hidden_size: int
    draft_vocabulary_size: int
    num_parameters: int
    max_rows: int
    chain_graph: str | None = None
    passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_dimensions(self, LEAST_DRAFTER_DIMENSIONS)
        _check_choice("precision", self.precision, WEIGHT_FORMATS)
        _check_choice("fusion", self.fusion, FUSIONS)
        _check_beside(self.graph, chain_graph=self.chain_graph)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths of its graphs in the bundle, one or two."""
        return _with_those_beside(self.graph, self.chain_graph)


def _check_dimensions(entry: TargetEntry | DrafterEntry, least_by_name: Mapping[str, int]) -> None:
    for name, least in least_by_name.items():
        if getattr(entry, name) < least:
            raise InputError(f"{name} must be {least} or more, got {getattr(entry, name)}")
    if entry.max_rows > MOST_ROWS:
        raise InputError(f"max_rows must be at most {MOST_ROWS}, got {entry.max_rows}")


def _check_beside(graph: str, **names: str | None) -> None:
    """Refuse a graph that is no path of a file, and what is not the name of a file in its folder."""
    if not PurePosixPath(graph).name:
        raise InputError(f"graph must be the path of a file, got {graph!r}")
    for field, name in names.items():
        if name is not None and (name in ("", "..") or PurePosixPath(name).name != name):
            raise InputError(f"{field} must be the name of a file beside {graph!r}, got {name!r}")


def _with_those_beside(graph: str, *names: str | None) -> tuple[str, ...]:
    """Paths of a graph and of the files of these names in its folder."""
    return (graph, *(str(PurePosixPath(graph).with_name(name)) for name in names if name is not None))


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerEntry:
    """Files and names that turn text into token ids.

    Attributes:
        file: path of the `tokenizer.json`.
        chat_template: path of the Jinja template of a conversation, or None.
        special_tokens: names the template may use, such as `bos_token`, to their text.
    """

    file: str
    chat_template: str | None
    special_tokens: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationEntry:
    """The model's own generation settings.

    Attributes:
        eos_token_ids: tokens that end an answer.
        temperature: default of `SamplingOptions.temperature`; 0 is greedy. The other fields alike.
    """

    eos_token_ids: tuple[int, ...]
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> SamplingOptions:
        """These settings, without a seed."""
        settings = dataclasses.asdict(self)
        del settings["eos_token_ids"]
        return SamplingOptions(**settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All of `manifest.json`."""

    target: TargetEntry
    tokenizer: TokenizerEntry
    generation: GenerationEntry
    measurements: Measurements
    provenance: Provenance
    files: tuple[FileEntry, ...]
    drafter: DrafterEntry | None = None

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a `manifest.json`.

        Raises:
            BundleError: it is not JSON, not a bundle's manifest, or a field is missing, unknown or mistyped.
            BundleVersionError: its version is not 1.
        """
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST_NAME} must be JSON, got: {error}; export the bundle again") from error
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise BundleError(f'{MANIFEST_NAME} must have "format": "{FORMAT}"; is this a bundle?')
        if type(version := value.pop("version", None)) is not int or version != VERSION:  # true equals 1
            raise BundleVersionError(
                f"the manifest's version must be {VERSION}, got {version!r}; "
                "export the bundle again or install the release of dovetail-ort that wrote it"
            )
        return read_record(cls, value, "manifest")
