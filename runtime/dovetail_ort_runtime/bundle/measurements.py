"""What export measured, and where a bundle comes from: records of the manifest that no code acts on.

It knows no graph and no source.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RowInvariance:
    """Whether the same tokens give the same bits in forwards of different sizes.

    Attributes:
        rows: numbers of rows S of the forwards that were compared.
        num_tokens: number of tokens of the text.
        identical: whether all logits and hidden states were equal bit for bit.
        largest_difference: largest difference of a logit.
    """

    rows: tuple[int, ...]
    num_tokens: int
    identical: bool
    largest_difference: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How close the bundle's graph is to what it was made from.

    Attributes:
        num_tokens: number of tokens of the text.
        top1: share of positions with the same likeliest token.
        mean_kl: mean Kullback-Leibler divergence between both distributions, in nats.
        compared_with: `model` for the original model, run by transformers in float32; `head` for a drafter's head in
            float32; `graph` for the bundle's own graph before graph passes were applied to it.
    """

    num_tokens: int
    top1: float
    mean_kl: float
    compared_with: str = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class WitnessReport:
    """How close the model and the bundle's graph are to logits that were recomputed from the source's files alone.

    Attributes:
        positions: positions of the tokens whose logits were recomputed.
        model_difference: largest difference of the original model's logits, run by transformers in float32, as a share
            of the distance from the smallest to the largest logit.
        graph_difference: largest difference of the graph's logits, as a share of the same distance.
        graph_top1: share of positions at which the graph has the same likeliest token.
        graph_mean_kl: mean Kullback-Leibler divergence of the graph's distribution, in nats.
        seconds: time that recomputing took, in seconds.
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
        row_invariance: whether the graph is batch-invariant.
        agreement: how close the graph is to the original model.
        witness: how close model and graph are to an independent reading of the files; None in bundles made before there
            was one.
    """

    row_invariance: RowInvariance
    agreement: Agreement
    witness: WitnessReport | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the bundle comes from.

    Attributes:
        source: name of the model: that of the hub's repository, of the GGUF metadata, or of the directory.
        exporter: version of dovetail-ort that exported it.
        packages: versions of the packages that took part, by name.
        machine: processor that the measurements were taken on.
        revision: commit of the hub repository; None for files from elsewhere.
        licence: licence that the source states, or None.
        ignored_settings: keys of the configuration that export ignored because the user said so.
        ignored_weights: tensors of the files that export ignored because the user said so.
        rotary_table: table of longrope that the graph has, `short` or `long`; None for other rotations.
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
