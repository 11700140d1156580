"""What a manifest says of a target and of a drafter: the files, formats and dimensions of their graphs.

It knows no graph: `graph_check` reads those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from dovetail_ort_runtime.bundle.formats import GRAPH_FORMATS, NATIVE, NUMBER_FORMATS, PORTABLE
from dovetail_ort_runtime.checks import must_be, must_be_at_least, must_be_between, must_be_one_of
from dovetail_ort_runtime.errors import InputError

# So many rows of logits are held in memory at a time, whatever a manifest asks for.
MOST_ROWS: Final = 1024
# Of the heads that are trained here, and of those that others have trained.
OWN_FUSIONS: Final = ("gating", "concatenation")
FUSIONS: Final = (*OWN_FUSIONS, "eagle3")
FORMS: Final = ("dgf", "eagle", "eagle3")
# A drafter whose first token is right in a smaller share of cases costs more time than it saves.
LEAST_ACCEPTANCE: Final = 0.2
LEAST_DIMENSIONS: Final = {
    "num_layers": 1,
    "num_heads": 1,
    "num_kv_heads": 1,
    "head_size": 1,
    "hidden_size": 1,
    "vocabulary_size": 1,
    "max_context": 2,
    "max_rows": 2,  # a forward of a portable graph has at least two rows
}
LEAST_DRAFTER_DIMENSIONS: Final = {
    "num_layers": 1,
    "num_kv_heads": 1,
    "head_size": 1,
    "hidden_size": 1,
    "draft_vocabulary_size": 1,
    "max_rows": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetEntry:
    """The target's graphs and its dimensions.

    Attributes:
        graph: path of the ONNX file.
        family: transformers model type that it was exported from.
        precision: number format of most weights: `int8`, `int4`, `fp16` or `fp32`.
        exact: whether a row's logits were independent of the other rows on the machine that exported the target.
        num_layers: number of blocks, L.
        num_heads: number of query heads, H.
        num_kv_heads: number of key-value heads, Hkv.
        head_size: head size, D.
        hidden_size: length of a hidden state, E.
        vocabulary_size: number of logits of a row, V.
        num_parameters: number of distinct weights of the model.
        max_context: largest number of tokens of prompt and answer.
        max_rows: largest number of tokens in one forward, at most `MOST_ROWS`.
        format: `native` for a graph of this project's own operators, `portable` for one of a stock ONNX Runtime's.
        operators: version of the native operators; None for a portable graph.
        portable_graph: name of a file beside a native `graph`, with the same target in portable operators; it is loaded
            where the library of native operators is missing. Or None.
        intermediate_size: inner width of an MLP; None in bundles made before there were drafters.
        weights_sha256: SHA-256 of the original model's weights, the same for every format and machine; None in bundles
            made before there were drafters.
        front_graph: name of a file beside `graph`, with the embedding and the first blocks in fp16; a portable `graph`
            then begins with the next block. None if the target is in one piece.
        front_chain_graph: name of a file beside `graph`, with the front graph without attention bias, for forwards over
            chains, over the same weights; or None.
        front_layers: number of blocks in the front graph, 0 without one.
        rest_graph: name of a file beside a native `graph`, with the blocks after the front graph in native operators;
            `graph` is then the whole target, for a machine without a GPU. None otherwise.
        passes: graph passes that were applied to the traced graph, in order, each as `name` or `name(option=value)`.
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
        must_be_one_of("precision", self.precision, NUMBER_FORMATS)
        _check_format(self)
        self._check_front()
        self._check_company()
        _check_path(self.graph)
        _check_beside(self.graph, "portable_graph", self.portable_graph)
        _check_beside(self.graph, "front_graph", self.front_graph)
        _check_beside(self.graph, "front_chain_graph", self.front_chain_graph)
        _check_beside(self.graph, "rest_graph", self.rest_graph)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths of the target's graphs in the bundle, one to five."""
        others = (self.portable_graph, self.front_graph, self.front_chain_graph, self.rest_graph)
        return with_paths_beside(self.graph, *others)

    def _check_front(self) -> None:
        if self.front_graph is None:
            rule = "0 without a front_graph"
            must_be("front_layers", rule, self.front_layers, holds=self.front_layers == 0)
        else:
            must_be_between("front_layers", self.front_layers, 1, self.num_layers - 1)

    def _check_company(self) -> None:
        """Refuse a graph without the one that it belongs to."""
        is_native = self.format == NATIVE
        has_front = self.front_graph is not None
        if self.front_chain_graph is not None and not has_front:
            raise InputError(f"front_chain_graph needs a front_graph; leave out {self.front_chain_graph!r}")
        if self.portable_graph is not None and not is_native:
            raise InputError(f"portable_graph needs a native graph beside it; leave out {self.portable_graph!r}")
        needs_rest = is_native and has_front
        if needs_rest and self.rest_graph is None:
            raise InputError("a native graph with a front_graph needs a rest_graph, which is missing")
        if self.rest_graph is not None and not needs_rest:
            raise InputError(f"rest_graph needs a native graph and a front_graph; leave out {self.rest_graph!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TapsEntry:
    """A target's graph that gives `drafter_features`, too; it is opened in the place of the plain one.

    Attributes:
        graph: name of a file beside the target's `graph`, which takes its place.
        levels: numbers of the levels that it reads, in the order in which the drafter wants them.
        portable_graph: name of a file beside it, which takes the place of the target's `portable_graph`; or None.
    """

    graph: str
    levels: tuple[int, ...]
    portable_graph: str | None = None

    def __post_init__(self) -> None:
        must_be("levels", "one number or more", self.levels, holds=len(self.levels) > 0)
        for level in self.levels:
            must_be_at_least("levels", level, 0)
        for field, name in (("graph", self.graph), ("portable_graph", self.portable_graph)):
            _check_file_name(field, name, "beside the target's graph")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadOrigin:
    """Where a drafter's head comes from.

    Attributes:
        name: name of the head: that of the hub's repository or of the directory.
        form: `dgf` for a head of this project, `eagle` for EAGLE-1 and 2, `eagle3` for EAGLE-3.
        revision: commit of the hub repository; None for files from elsewhere.
        licence: licence that the publisher states, or None.
    """

    name: str
    form: str
    revision: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        must_be_one_of("form", self.form, FORMS)


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptanceRow:
    """How many of a drafter's tokens the target accepted on one text.

    Attributes:
        text: what the text is.
        num_tokens: number of tokens of the text after which the drafter drafted.
        by_depth: share of drafted tokens that the target would have written, too, for the first token of a chain, for
            the second where the first was right, and so on.
    """

    text: str
    num_tokens: int
    by_depth: tuple[float, ...]

    def __post_init__(self) -> None:
        must_be_at_least("num_tokens", self.num_tokens, 1)
        for share in self.by_depth:
            must_be_between("by_depth", share, 0, 1)

    @property
    def first(self) -> float:
        """Share of first tokens of chains that the target would have written, too; 0 if there are none."""
        return self.by_depth[0] if self.by_depth else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DrafterEntry:
    """The draft graph and its dimensions; D and Hkv are its own.

    Attributes:
        graph: path of the ONNX file.
        precision: number format of the weights: `int8`, `int4`, `fp16` or `fp32`; an fp16 drafter has its cache in half
            precision.
        fusion: how feature and token are joined: `gating`, `concatenation` or `eagle3`.
        target_sha256: `TargetEntry.weights_sha256` of the target whose hidden states the drafter reads.
        num_layers: number of decoder blocks.
        num_kv_heads: number of key-value heads, Hkv.
        head_size: head size, D.
        hidden_size: F, width of the features that the drafter reads and predicts; E, the target's, without taps.
        draft_vocabulary_size: number of tokens that can be drafted.
        num_parameters: number of weights of fusion and blocks.
        max_rows: largest number of rows in one forward, at most `MOST_ROWS`.
        chain_graph: name of a file beside `graph`, with the graph without attention bias, for chains, over the same
            weights; it gives the predicted states of scored rows only. Or None.
        format: `native` for a graph of this project's own operators, `portable` for one of a stock ONNX Runtime's.
        operators: version of the native operators; None for a portable graph.
        passes: graph passes that were applied to the traced graph, in order, each as `name` or `name(option=value)`.
        taps: the target's graph that gives the features; None if they are its hidden states.
        origin: where the head comes from; None in bundles made before there were other heads.
        acceptance: what was measured when the drafter was attached.
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
    taps: TapsEntry | None = None
    origin: HeadOrigin | None = None
    acceptance: tuple[AcceptanceRow, ...] = ()

    def __post_init__(self) -> None:
        _check_dimensions(self, LEAST_DRAFTER_DIMENSIONS)
        must_be_one_of("precision", self.precision, NUMBER_FORMATS)
        must_be_one_of("fusion", self.fusion, FUSIONS)
        _check_format(self)
        _check_path(self.graph)
        _check_beside(self.graph, "chain_graph", self.chain_graph)

    @property
    def loses(self) -> bool:
        """Whether drafting was measured, and costs more time than it saves."""
        return bool(self.acceptance) and self.acceptance[0].first < LEAST_ACCEPTANCE

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths of the drafter's graphs in the bundle, one to four."""
        if self.taps is None:
            return with_paths_beside(self.graph, self.chain_graph)
        return with_paths_beside(self.graph, self.chain_graph, self.taps.graph, self.taps.portable_graph)


def with_paths_beside(graph: str, *names: str | None) -> tuple[str, ...]:
    """Path of a graph, and those of the files of these names in its folder."""
    folder = PurePosixPath(graph)
    others = [str(folder.with_name(name)) for name in names if name is not None]
    return (graph, *others)


def _check_dimensions(entry: TargetEntry | DrafterEntry, least_by_name: Mapping[str, int]) -> None:
    for name, least in least_by_name.items():
        must_be_at_least(name, getattr(entry, name), least)
    must_be("max_rows", f"{MOST_ROWS} or less", entry.max_rows, holds=entry.max_rows <= MOST_ROWS)


def _check_format(entry: TargetEntry | DrafterEntry) -> None:
    must_be_one_of("format", entry.format, GRAPH_FORMATS)
    if entry.format == PORTABLE and entry.operators is not None:
        raise InputError(f"a portable graph has no native operators; leave out their version {entry.operators}")
    if entry.format == NATIVE:
        holds = entry.operators is not None and entry.operators >= 1
        must_be("operators", "1 or more with a native graph", entry.operators, holds=holds)


def _check_path(graph: str) -> None:
    must_be("graph", "the path of a file", graph, holds=PurePosixPath(graph).name != "")


def _check_beside(graph: str, field: str, name: str | None) -> None:
    """Refuse what is not the name of a file in the graph's folder."""
    _check_file_name(field, name, f"beside {graph!r}")


def _check_file_name(field: str, name: str | None, place: str) -> None:
    if name is not None:
        holds = name not in ("", "..") and PurePosixPath(name).name == name
        must_be(field, f"the name of a file {place}", name, holds=holds)
