"""What export measured, and where a bundle comes from: the records of the manifest that no code acts on."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RowInvariance:
    """Whether the same tokens give the same bits in passes of different sizes.

    Attributes:
        rows: the pass sizes S that were compared.
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
class Int8FormatMeasurements:
    """One of the INT8 formats that export built and compared.

    Attributes:
        int8_format: `row`, `row-unsigned` or `block`, as the target's.
        num_bytes: size of graph and weights.
        row_invariance: of its graph.
        agreement: of its graph.
        pass_ms: median milliseconds of a pass by its number of rows, taken in turns with the other format.
    """

    int8_format: str
    num_bytes: int
    row_invariance: RowInvariance
    agreement: Agreement
    pass_ms: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """What export measured before it declared the bundle good.

    Attributes:
        row_invariance: of the bundle's graph.
        agreement: of the bundle's graph.
        int8_formats: all formats that were compared, if the bundle's was chosen by measurement.
    """

    row_invariance: RowInvariance
    agreement: Agreement
    int8_formats: tuple[Int8FormatMeasurements, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How activations were equalised and measured.

    Attributes:
        text: name of the file they were measured on, or None if the model wrote the text itself.
        num_tokens: tokens in the text.
        seed: of the model's writing.
        alpha: SmoothQuant's exponent.
    """

    text: str | None
    num_tokens: int
    seed: int
    alpha: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the bundle comes from.

    Attributes:
        source: name of the model directory, hub repository or GGUF file.
        exporter: version of dovetail-ort.
        packages: versions of the packages that took part, by name.
        machine: processor that the measurements were taken on.
        calibration: on which text activations were measured; None if no pass asked for it.
    """

    source: str
    exporter: str
    packages: dict[str, str]
    machine: str
    calibration: Calibration | None = None
