"""What the pages quote: each function makes one marked block from result files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.tables.application import frozen_application
from benchmarks.tables.formats import int8_formats, int8_formats_without_vnni, layer_costs, row_format_steps
from benchmarks.tables.gpu import gpu
from benchmarks.tables.growth import growth
from benchmarks.tables.heads import draft_head, draft_heads
from benchmarks.tables.humaneval import humaneval, slowest_prompts, trees
from benchmarks.tables.operators import operator_costs
from benchmarks.tables.paper_size import paper_size, random_weights
from benchmarks.tables.peers import peers
from benchmarks.tables.planner import planner, spinning
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
from benchmarks.tables.torch_export import torch_export_graphs, torch_export_refusals, torch_export_times

TABLES: Final[dict[str, Callable[[], str]]] = {
    "humaneval": humaneval,
    "slowest-prompts": slowest_prompts,
    "trees": trees,
    "peers": peers,
    "growth": growth,
    "planner": planner,
    "spinning": spinning,
    "paper-size": paper_size,
    "random-weights": random_weights,
    "draft-head": draft_head,
    "draft-heads": draft_heads,
    "operator-costs": operator_costs,
    "int8-formats": int8_formats,
    "int8-formats-without-vnni": int8_formats_without_vnni,
    "layer-costs": layer_costs,
    "row-format-steps": row_format_steps,
    "frozen-application": frozen_application,
    "load": load,
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
}
