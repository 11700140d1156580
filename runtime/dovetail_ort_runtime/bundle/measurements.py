"""What export measured, and where a bundle comes from: the records of the manifest that no code acts on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RowInvariance:
    """Whether the same tokens give the same bits in forwards of different sizes.

    Attributes:
        rows: the forward sizes S that were compared.
        num_tokens: tokens in the text.
        identical: whether all logits and hidden states were equal bit for bit.
        largest_difference: of any logit.
    """

    rows: tuple[int, ...]
    num_tokens: int
    identical: bool
    largest_difference: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """The bundle's graph against what it came from.

    Attributes:
        num_tokens: tokens in the text.
        top1: share of positions with the same most likely token.
        mean_kl: mean Kullback-Leibler divergence of the graph's distribution from the other's, in nats.
        compared_with: `model`, the original run by transformers in float32; `head`, a drafter's in float32; or `graph`,
            the bundle's own before passes were applied to it.
    """

    num_tokens: int
    top1: float
    mean_kl: float
    compared_with: str = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class WitnessReport:
    """The model and the bundle's graph against logits that were recomputed from the source's files alone.

    Attributes:
        positions: where the tokens stood.
        model_difference: largest difference of the original model's logits, run by transformers in float32, as a share
            of the logits' spread, from the smallest to the largest.
        graph_difference: of the bundle's graph, likewise.
        graph_top1: share of positions at which the graph has the same most likely token.
        graph_mean_kl: mean Kullback-Leibler divergence of the graph's distribution, in nats.
        seconds: that recomputing took.
    """

    positions: tuple[int, ...]
    model_difference: float
    graph_difference: float
    graph_top1: float
    graph_mean_kl: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """What export measured before it declared the bundle good.

    Attributes:
        row_invariance: of the bundle's graph.
        agreement: of the bundle's graph.
        witness: model and graph against an independent reading of the files; None in bundles of before there was one.
    """

    row_invariance: RowInvariance
    agreement: Agreement
    witness: WitnessReport | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the bundle comes from.

    Attributes:
        source: name of the model: the hub's repository, the GGUF metadata's name, or the directory's.
        exporter: version of dovetail-ort.
        packages: versions of the packages that took part, by name.
        machine: processor that the measurements were taken on.
        revision: commit of the hub repository; None for files of another origin.
        licence: as the source states it, or None.
        ignored_settings: keys of the configuration that were passed over because the user said so.
        ignored_weights: tensors of the files that were passed over likewise.
        rotary_table: which of longrope's two tables the graph has, `short` or `long`; None for other rotations.
    """

    source: str
    exporter: str
    packages: dict[str, str]
    machine: str
    revision: str | None = None
    licence: str | None = None
    ignored_settings: tuple[str, ...] = ()
    ignored_weights: tuple[str, ...] = ()
    rotary_table: str | None = None
