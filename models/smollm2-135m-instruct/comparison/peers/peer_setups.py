"""Which peers are compared, and where `make compare` puts what each needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROGRAMS: Final = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerSetup:
    """How a peer is started.

    Attributes:
        interpreter: of the environment that has the peer's packages.
        program: what it runs.
        model: directory or file.
        arguments: of the program after its options.
        weights: number format, in words.
    """

    interpreter: Path
    program: Path
    model: Path
    arguments: tuple[str, ...] = ()
    weights: str


def peer_setups(bundle: Path, built: Path) -> dict[str, PeerSetup]:
    """Every system by name, ours first.

    Args:
        bundle: of ours.
        built: environments and models of the others.
    """
    return {
        "dovetail-ort": PeerSetup(
            interpreter=Path(sys.executable),
            program=_PROGRAMS / "dovetail_peer.py",
            model=bundle,
            weights="8 bit, as the bundle has them",
        ),
        "onnxruntime-genai": PeerSetup(
            interpreter=built / "python/bin/python",
            program=_PROGRAMS / "genai_peer.py",
            model=built / "genai-int8",
            weights="8 bit, blocks of 32",
        ),
        "OpenVINO GenAI": PeerSetup(
            interpreter=built / "openvino/bin/python",
            program=_PROGRAMS / "openvino_peer.py",
            model=built / "openvino-int8",
            weights="8 bit, one scale an output",
        ),
        "llama.cpp Q8_0": _llama(built, "q8_0.gguf", "8 bit, blocks of 32"),
        "llama.cpp Q4_1": _llama(built, "q4_1.gguf", "4 bit, blocks of 32; embedding and head 8 bit"),
        "transformers fp32": _transformers(built, "float32"),
        "transformers bf16": _transformers(built, "bfloat16"),
    }


def _llama(built: Path, model: str, weights: str) -> PeerSetup:
    return PeerSetup(
        interpreter=Path("node"),
        program=_PROGRAMS / "llama_peer.mjs",
        model=built / model,
        arguments=(str((built / "llama/node_modules/node-llama-cpp").resolve()),),
        weights=weights,
    )


def _transformers(built: Path, precision: str) -> PeerSetup:
    return PeerSetup(
        interpreter=built / "python/bin/python",
        program=_PROGRAMS / "transformers_peer.py",
        model=built / "hugging-face",
        arguments=(precision,),
        weights=precision,
    )
