"""What the pages quote: each function makes one marked block from result files.

result files -> a function here (markdown) -> the text of one block
TABLES: the name of a block -> its function
render: a page with the names of blocks -> the page with their text
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.tables.application import frozen_application
from benchmarks.tables.formats import formats
from benchmarks.tables.four_bits import four_bits
from benchmarks.tables.gpu import gpu
from benchmarks.tables.growth import growth
from benchmarks.tables.heads import draft_head, draft_heads
from benchmarks.tables.humaneval import at_a_glance, humaneval
from benchmarks.tables.kernels import kernels_forwards, kernels_speed, kernels_suites, weight_placement
from benchmarks.tables.paper_size import paper_size, random_weights
from benchmarks.tables.peers import peers
from benchmarks.tables.planner import planner, spinning
from benchmarks.tables.profile import profile
from benchmarks.tables.results import results
from benchmarks.tables.server import load
from benchmarks.tables.sources import (
    families,
    gguf_splitting,
    harmless_settings,
    published,
    refused_directories,
    refused_weights,
    rotations,
    settings,
    unneeded_weights,
)
from benchmarks.tables.start_up import start_up
from benchmarks.tables.torch_export import torch_export_graphs, torch_export_refusals, torch_export_times

TABLES: Final[dict[str, Callable[[], str]]] = {
    "at-a-glance": at_a_glance,
    "humaneval": humaneval,
    "kernels-forwards": kernels_forwards,
    "kernels-speed": kernels_speed,
    "kernels-suites": kernels_suites,
    "weight-placement": weight_placement,
    "four-bits": four_bits,
    "peers": peers,
    "growth": growth,
    "planner": planner,
    "spinning": spinning,
    "paper-size": paper_size,
    "random-weights": random_weights,
    "draft-head": draft_head,
    "draft-heads": draft_heads,
    "profile": profile,
    "formats": formats,
    "frozen-application": frozen_application,
    "load": load,
    "start-up": start_up,
    "families": families,
    "settings": settings,
    "rotations": rotations,
    "harmless-settings": harmless_settings,
    "unneeded-weights": unneeded_weights,
    "published": published,
    "refused-directories": refused_directories,
    "refused-weights": refused_weights,
    "gguf-splitting": gguf_splitting,
    "torch-export-refusals": torch_export_refusals,
    "torch-export-graphs": torch_export_graphs,
    "torch-export-times": torch_export_times,
    "gpu": gpu,
    "results": results,
}
