"""The model card of a bundle on the hub: it says what the manifest says, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Final

from dovetail_ort.cli.bundle_lines import drafter_lines, measurement_lines, number_format
from dovetail_ort_runtime.bundle.formats import INT4, INT8
from dovetail_ort_runtime.bundle.hub_cache import HubName
from dovetail_ort_runtime.bundle.manifest import Manifest

# A card without this line was written by a person, and is not replaced.
CARD_MARK: Final = "<!-- Written by dovetail-ort push. Without this line the card stays when a new bundle comes. -->"

# As the hub names licences, such as apache-2.0 or llama3.2.
_LICENCE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_QUANTISED: Final = (INT8, INT4)


def model_card(manifest: Manifest, name: HubName) -> str:
    """README.md of a bundle that is pushed as `name`. It names a licence only if the manifest has the source's."""
    target = manifest.target
    lines = {
        "source": _source(manifest),
        "licence of the source": manifest.provenance.licence or "not stated there",
        "family": f"{target.family}, {target.num_parameters / 1e6:.1f} million parameters",
        "weights": number_format(target),
        "context": f"{target.max_context} tokens of prompt and answer",
        **drafter_lines(manifest),
        "size": f"{sum(entry.num_bytes for entry in manifest.files) / 1e6:.1f} MB",
        **measurement_lines(manifest),
        "exported by": f"dovetail-ort {manifest.provenance.exporter} on {manifest.provenance.machine}",
    }
    table = "\n".join(f"| {label} | {_cell(line)} |" for label, line in lines.items())
    prompt = '"Why is the sky"'
    if manifest.tokenizer.chat_template is not None:
        prompt = '[{"role": "user", "content": "Why is the sky blue?"}]'
    return f"""{_front_matter(manifest)}
{CARD_MARK}

# {name.repository.partition("/")[2]}

{_cell(manifest.provenance.source)} as a bundle of dovetail-ort: graphs for ONNX Runtime, decoded
speculatively, without PyTorch and transformers.

| | |
|---|---|
{table}

Measurements were made at export, on the machine above; those of the drafter when it was attached.

## Use

```sh
pip install 'dovetail-ort[cpu,hub]'
dovetail-ort pull {name.repository}
dovetail-ort generate {name.repository} "Why is the sky blue?"
```

```python
import dovetail_ort

with dovetail_ort.load("{name.repository}") as model:  # from the cache that pull filled, with no connection
    print(model.generate({prompt}).text)
```
"""


def _front_matter(manifest: Manifest) -> str:
    """What the hub reads, as YAML. Texts are written as JSON strings, which YAML reads in the same way."""
    settings: dict[str, object] = {
        "library_name": "dovetail-ort",
        "pipeline_tag": "text-generation",
        "tags": ["onnx", "speculative-decoding", manifest.target.precision],
    }
    licence = manifest.provenance.licence
    if licence is not None and _LICENCE_NAME.fullmatch(licence):
        settings["license"] = licence
    if HubName.parse(manifest.provenance.source) is not None:
        settings["base_model"] = manifest.provenance.source
        if manifest.target.precision in _QUANTISED:
            settings["base_model_relation"] = "quantized"
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in settings.items()), "---"])


def _source(manifest: Manifest) -> str:
    provenance = manifest.provenance
    return provenance.source if provenance.revision is None else f"{provenance.source} at {provenance.revision}"


def _cell(text: str) -> str:
    """A text for one cell of a table; markup in the manifest is escaped."""
    return re.sub(r"([\\|<>\[\]`*_])", r"\\\1", " ".join(text.split()))
