"""Which peers are compared, and how each is started."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerSetup:
    """How a peer is started.

    Attributes:
        command: program that is run, in the environment that has the peer's packages.
        model: directory or file of the model.
        arguments: further arguments of the program, after its options.
        weights: number format of the weights, in words.
    """

    command: tuple[str, ...]
    model: Path
    arguments: tuple[str, ...] = ()
    weights: str


def peer_setups(bundle: Path, built: Path) -> dict[str, PeerSetup]:
    """Every system by name, ours first.

    Args:
        bundle: directory of our bundle.
        built: directory in which `make compare` puts environments and models of the others.
    """
    return {
        "dovetail-ort": PeerSetup(
            command=_module(Path(sys.executable), "dovetail_peer"),
            model=bundle,
            weights="8 bit, as the bundle has them",
        ),
        "onnxruntime-genai": PeerSetup(
            command=_module(built / "python/bin/python", "genai_peer"),
            model=built / "genai-int8",
            weights="8 bit, blocks of 32",
        ),
        "OpenVINO GenAI": PeerSetup(
            command=_module(built / "openvino/bin/python", "openvino_peer"),
            model=built / "openvino-int8",
            weights="8 bit, one scale an output",
        ),
        "llama.cpp Q8_0": _llama(built, "q8_0.gguf", "8 bit, blocks of 32"),
        "llama.cpp Q4_1": _llama(built, "q4_1.gguf", "4 bit, blocks of 32; embedding and head 8 bit"),
        "transformers fp32": _transformers(built, "float32"),
        "transformers bf16": _transformers(built, "bfloat16"),
    }


def _module(python: Path, name: str) -> tuple[str, ...]:
    return str(python), "-m", f"benchmarks.peers.{name}"


def _llama(built: Path, model: str, weights: str) -> PeerSetup:
    return PeerSetup(
        command=("node", str(Path(__file__).with_name("llama_peer.mjs"))),
        model=built / model,
        arguments=(str((built / "llama/node_modules/node-llama-cpp").resolve()),),
        weights=weights,
    )


def _transformers(built: Path, precision: str) -> PeerSetup:
    return PeerSetup(
        command=_module(built / "python/bin/python", "transformers_peer"),
        model=built / "hugging-face",
        arguments=(precision,),
        weights=precision,
    )
