"""What a bundle says of itself: `manifest.json`, version 2; version 1 is read as well. It knows no directory."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final

from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry, with_paths_beside
from dovetail_ort_runtime.bundle.json_record import read_record
from dovetail_ort_runtime.bundle.manifest_version_1 import from_version_1
from dovetail_ort_runtime.bundle.measurements import Measurements, Provenance
from dovetail_ort_runtime.errors import BundleError, BundleVersionError
from dovetail_ort_runtime.options import SamplingOptions

FORMAT: Final = "dovetail-ort-bundle"
VERSION: Final = 2
MANIFEST_NAME: Final = "manifest.json"
_EARLIER_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of the bundle.

    Attributes:
        path: path relative to the bundle, with forward slashes.
        num_bytes: size in bytes.
        sha256: checksum, 64 hexadecimal digits.
    """

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerEntry:
    """Files and names that turn text into token ids.

    Attributes:
        file: path of the `tokenizer.json`.
        chat_template: path of the Jinja template of a conversation, or None.
        special_tokens: names that the template may use, such as `bos_token`, with their text.
    """

    file: str
    chat_template: str | None
    special_tokens: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationEntry:
    """The model's own generation settings.

    Attributes:
        eos_token_ids: tokens that end an answer.
        temperature: default of `SamplingOptions.temperature`; 0 is greedy.
        top_k: default of `SamplingOptions.top_k`.
        top_p: default of `SamplingOptions.top_p`.
        min_p: default of `SamplingOptions.min_p`.
        repetition_penalty: default of `SamplingOptions.repetition_penalty`.
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
        return SamplingOptions(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All of `manifest.json`.

    Attributes:
        target: graphs and dimensions of the target.
        tokenizer: files and names of the tokenizer.
        generation: generation settings of the model.
        measurements: what export measured.
        provenance: where the bundle comes from.
        files: every other file of the bundle.
        drafter: graph and dimensions of the drafter, or None.
    """

    target: TargetEntry
    tokenizer: TokenizerEntry
    generation: GenerationEntry
    measurements: Measurements
    provenance: Provenance
    files: tuple[FileEntry, ...]
    drafter: DrafterEntry | None = None

    def operators(self) -> dict[str, int | None]:
        """Version of the native operators of each native graph, by its path in the bundle."""
        taps = None if self.drafter is None else self.drafter.taps
        tapped = None if taps is None else taps.graph
        native = with_paths_beside(self.target.graph, self.target.rest_graph, tapped)
        versions: dict[str, int | None] = dict.fromkeys(native, self.target.operators)
        if self.drafter is not None:
            versions[self.drafter.graph] = self.drafter.operators
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
        value = _parsed(text)
        version = value.pop("version", None)
        if type(version) is not int or version not in (VERSION, _EARLIER_VERSION):  # true equals 1
            raise BundleVersionError(
                f"the manifest's version must be {VERSION} or {_EARLIER_VERSION}, got {version!r}; "
                "export the bundle again or install the release of dovetail-ort that wrote it"
            )
        if version == _EARLIER_VERSION:
            value = from_version_1(value)
        return read_record(cls, value, "manifest")


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object of a bundle's manifest, without its key `format`."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not JSON: {error}; export the bundle again") from error
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise BundleError(f'{MANIFEST_NAME} must have "format": "{FORMAT}"; is this a bundle?')
    return value
