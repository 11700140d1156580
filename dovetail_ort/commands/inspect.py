"""`dovetail-ort inspect`: what a bundle says of itself."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any, Final

from dovetail_ort.cli.arguments import add_bundle, add_json
from dovetail_ort.cli.bundle_lines import drafter_lines, measurement_lines, number_format, page
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.manifest import Manifest

_VERIFIED: Final = {True: "all checksums match", False: "sizes match; --verify also compares checksums"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  dovetail-ort inspect smollm2 --verify"
    add_bundle(parser)
    parser.add_argument("--verify", action="store_true", help="compare the checksum of every file with the manifest")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    bundle = Bundle(arguments.bundle)
    if arguments.verify:
        print("hashing every file", file=sys.stderr)
        bundle.verify_checksums()
    if arguments.json:
        print(json.dumps(_as_json(bundle, verified=arguments.verify), indent=2))
    else:
        print(_page(bundle, verified=arguments.verify))
    return 0


def _as_json(bundle: Bundle, *, verified: bool) -> dict[str, Any]:
    return {
        "directory": str(bundle.directory),
        "verified": verified,
        "num_bytes": _num_bytes(bundle.manifest),
        **dataclasses.asdict(bundle.manifest),
    }


def _page(bundle: Bundle, *, verified: bool) -> str:
    manifest = bundle.manifest
    lines = {
        "bundle": str(bundle.directory),
        **_model(manifest),
        **measurement_lines(manifest),
        **_origin(manifest),
        "files": f"{_num_bytes(manifest) / 1e6:.1f} MB; {_VERIFIED[verified]}",
    }
    files = [f"  {entry.num_bytes:>13,}  {entry.sha256[:12]}  {entry.path}" for entry in manifest.files]
    return "\n".join([page(lines), *files])


def _model(manifest: Manifest) -> dict[str, str]:
    target = manifest.target
    settings = dataclasses.asdict(manifest.generation)
    return {
        "model": f"{target.family}, {target.num_parameters / 1e6:.1f} million parameters, {number_format(target)}",
        "dimensions": f"{target.num_layers} blocks, {target.num_heads} query and {target.num_kv_heads} KV heads of "
        f"{target.head_size}, hidden size {target.hidden_size}, vocabulary {target.vocabulary_size}",
        "passes": ", ".join(target.passes) or "not recorded",
        **drafter_lines(manifest),
        "limits": f"{target.max_context} tokens of context, {target.max_rows} rows a forward",
        "chat template": manifest.tokenizer.chat_template or "none",
        "settings": ", ".join(f"{name} {_shown(value)}" for name, value in settings.items()),
    }


def _origin(manifest: Manifest) -> dict[str, str]:
    provenance = manifest.provenance
    return {
        "source": provenance.source,
        "exported by": f"dovetail-ort {provenance.exporter} on {provenance.machine}",
        "with": ", ".join(f"{name} {version}" for name, version in provenance.packages.items()),
    }


def _shown(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def _num_bytes(manifest: Manifest) -> int:
    return sum(entry.num_bytes for entry in manifest.files)
