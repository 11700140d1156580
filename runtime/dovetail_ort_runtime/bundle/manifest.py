"""What a bundle says of itself: `manifest.json`, version 2; version 1 is read as well."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from dovetail_ort_runtime.bundle.json_record import read_record
from dovetail_ort_runtime.bundle.measurements import Measurements, Provenance
from dovetail_ort_runtime.errors import BundleError, BundleVersionError, InputError, one_line
from dovetail_ort_runtime.options import SamplingOptions

FORMAT: Final = "dovetail-ort-bundle"
VERSION: Final = 2
_EARLIER_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
# Logits of that many rows are held at a time, whatever a manifest asks for.
MOST_ROWS: Final = 1024
WEIGHT_FORMATS: Final = ("int8", "int4", "fp16", "fp32")
# Which operators a graph is made of: this package's own, or those of a stock ONNX Runtime.
NATIVE: Final = "native"
PORTABLE: Final = "portable"
GRAPH_FORMATS: Final = (NATIVE, PORTABLE)
# Keys of version 1 that are gone, by section, and the values of the first that cannot be read any more.
_GONE: Final = {"target": "int8_format", "measurements": "int8_formats", "provenance": "calibration"}
_ROW_FORMATS: Final = ("row", "row-unsigned")
# Keys that version 1 did not have, likewise.
_NEW: Final = {"target": ("format", "operators", "portable_graph", "rest_graph"), "drafter": ("format", "operators")}
FUSIONS: Final = ("gating", "concatenation")
LEAST_DIMENSIONS: Final = {
    **dict.fromkeys(("num_layers", "num_heads", "num_kv_heads", "head_size", "hidden_size", "vocabulary_size"), 1),
    **dict.fromkeys(("max_context", "max_rows"), 2),  # a forward of a portable graph has two rows at the least
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
        max_rows: largest number of tokens in one forward, at most `MOST_ROWS`.
        format: `native`, of this package's own operators, or `portable`, of those of a stock ONNX Runtime.
        operators: version of the native operators; None in a portable graph.
        portable_graph: the same target in portable operators, a file beside a native `graph` that is loaded where the
            library of operators is missing; or None.
        intermediate_size: inner width of an MLP; None in bundles of before there were drafters.
        weights_sha256: SHA-256 of the original model's weights, the same for every format and machine; None likewise.
        front_graph: the embedding and the first blocks in fp16, a file beside `graph`; a portable `graph` then begins
            with the block after them; None if the target is in one piece.
        front_chain_graph: the front graph without attention bias, for forwards over chains, over the same weights; a
            file beside it, or None.
        front_layers: how many blocks those are, 0 or more.
        rest_graph: the blocks after them in native operators, a file beside a native `graph`, which is then the whole
            target for a machine without a GPU; None otherwise.
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
    format: str = PORTABLE
    operators: int | None = None
    portable_graph: str | None = None
    intermediate_size: int | None = None
    weights_sha256: str | None = None
    front_graph: str | None = None
    front_chain_graph: str | None = None
    front_layers: int = 0
    rest_graph: str | None = None
    passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_dimensions(self, LEAST_DIMENSIONS)
        _check_choice("precision", self.precision, WEIGHT_FORMATS)
        _check_format(self)
        least, most = (0, 0) if self.front_graph is None else (1, self.num_layers - 1)
        if not least <= self.front_layers <= most:
            raise InputError(
                f"front_layers must be between 1 and {self.num_layers - 1} with a front_graph, and 0 without, "
                f"got {self.front_layers}"
            )
        if self.front_chain_graph is not None and self.front_graph is None:
            raise InputError(f"front_chain_graph must go with a front_graph, got {self.front_chain_graph!r} without")
        if self.portable_graph is not None and self.format != NATIVE:
            raise InputError(f"portable_graph must go with a native graph, got {self.portable_graph!r} without")
        if (self.rest_graph is not None) != (self.format == NATIVE and self.front_graph is not None):
            raise InputError(f"rest_graph must go with a native graph and a front_graph, got {self.rest_graph!r}")
        _check_beside(
            self.graph,
            portable_graph=self.portable_graph,
            front_graph=self.front_graph,
            front_chain_graph=self.front_chain_graph,
            rest_graph=self.rest_graph,
        )

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths of its graphs in the bundle, one to five."""
        beside = (self.portable_graph, self.front_graph, self.front_chain_graph, self.rest_graph)
        return _with_those_beside(self.graph, *beside)


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
        max_rows: largest number of rows in one forward, at most `MOST_ROWS`.
        chain_graph: the graph without attention bias, for chains, which gives the predicted states of scored rows only;
            over the same weights, a file beside it, or None.
        format: as of the target, like `operators` and `passes`.
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
    format: str = PORTABLE
    operators: int | None = None
    passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_dimensions(self, LEAST_DRAFTER_DIMENSIONS)
        _check_choice("precision", self.precision, WEIGHT_FORMATS)
        _check_choice("fusion", self.fusion, FUSIONS)
        _check_format(self)
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


def _check_format(entry: TargetEntry | DrafterEntry) -> None:
    _check_choice("format", entry.format, GRAPH_FORMATS)
    if entry.format == PORTABLE and entry.operators is not None:
        raise InputError(f"operators must go with a native graph, got {entry.operators} without")
    if entry.format == NATIVE and (entry.operators is None or entry.operators < 1):
        raise InputError(f"operators must be 1 or more with a native graph, got {entry.operators}")


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

    def operators(self) -> dict[str, int | None]:
        """Version of the native operators of each native graph, by its path in the bundle."""
        target, drafter = self.target, self.drafter
        graphs = _with_those_beside(target.graph, target.rest_graph)
        versions: dict[str, int | None] = dict.fromkeys(graphs, target.operators)
        if drafter is not None:
            versions[drafter.graph] = drafter.operators
        return versions

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a `manifest.json`.

        Raises:
            BundleError: it is not JSON, not a bundle's manifest, or a field is missing, unknown or mistyped.
            BundleVersionError: its version is neither 2 nor 1, or it is of version 1 and its weights are INT8 by rows.
        """
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST_NAME} must be JSON, got: {error}; export the bundle again") from error
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise BundleError(f'{MANIFEST_NAME} must have "format": "{FORMAT}"; is this a bundle?')
        version = value.pop("version", None)
        if type(version) is not int or version not in (VERSION, _EARLIER_VERSION):  # true equals 1
            raise BundleVersionError(
                f"the manifest's version must be {VERSION} or {_EARLIER_VERSION}, got {version!r}; "
                "export the bundle again or install the release of dovetail-ort that wrote it"
            )
        if version == _EARLIER_VERSION:
            value = _from_version_1(value)
        return read_record(cls, value, "manifest")


def _from_version_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of version 1 as one of version 2: some keys are gone, the others mean the same.

    Raises:
        BundleError: it has a key of version 2.
        BundleVersionError: its weights are INT8 by rows, which no graph has any more.
    """
    for name, keys in _NEW.items():
        if isinstance(section := manifest.get(name), dict) and (new := [key for key in keys if key in section]):
            raise BundleError(f"manifest.{name} of version {_EARLIER_VERSION} must have no key {new[0]!r}")
    sections = {name: value for name in _GONE if isinstance(value := manifest.get(name), dict)}
    int8_format = sections.get("target", {}).get("int8_format")
    if int8_format in _ROW_FORMATS:
        source = one_line(sections.get("provenance", {}).get("source", "SOURCE"))
        raise BundleVersionError(
            f"the INT8 weights of a bundle of version 1 must be in blocks, got the format {int8_format}; "
            f"make a new bundle with: dovetail-ort export {shlex.quote(source)} OUT"
        )
    kept = {
        name: {key: value for key, value in section.items() if key != _GONE[name]} for name, section in sections.items()
    }
    return manifest | kept
