"""Draft heads of a target's shape with random weights, as graphs: they cost what trained ones cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from dovetail_ort_export.heads.config import HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.writing.drafter_parts import own_parts
from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe, write_drafter
from dovetail_ort_export.writing.target_ends import TargetEnds, read_target_ends
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.machine.processor import usable_cores

SEED: Final = 0
PRECISION: Final = "int8"
DEVIATION: Final = 0.02  # standard deviation of the weights that transformers initialises


def random_drafters(bundle: Bundle, folder: Path, blocks: Sequence[int], capacity: int) -> dict[int, DraftGraph]:
    """A drafter of each number of blocks, its graph written into `folder`.

    As in the paper, a drafter ranks the whole vocabulary of the target.
    """
    ends = read_target_ends(bundle)
    entries = {number: write_random_drafter(bundle.manifest.target, ends, folder, number) for number in blocks}
    return {
        number: DraftGraph(folder / entry.graph, entry, capacity=capacity, threads=usable_cores())
        for number, entry in entries.items()
    }


def write_random_drafter(
    target: TargetEntry, ends: TargetEnds, folder: Path, num_blocks: int, precision: str = PRECISION
) -> DrafterEntry:
    """Write the graphs of a drafter of `num_blocks` blocks into `folder`; return what a manifest says of them."""
    assert target.weights_sha256 is not None
    epsilon = ends.norm_epsilon
    config = HeadConfig.for_target(target, fusion="gating", num_blocks=num_blocks, norm_epsilon=epsilon)
    head = _random_head(config)
    parts = own_parts(head, ends, np.arange(target.vocabulary_size))
    recipe = drafter_recipe(precision, target.format)
    entry = drafter_entry(parts, target.weights_sha256, f"drafter-{num_blocks}.onnx", recipe)
    write_drafter(drafter_graph(parts, recipe), folder, entry)
    return entry


def _random_head(config: HeadConfig) -> DraftHead:
    """A head whose weights of one shape share their values: float32 copies of five blocks would not fit in memory."""
    torch.manual_seed(SEED)
    with torch.device("meta"):
        head = DraftHead(config)
    drawn: dict[torch.Size, Tensor] = {}
    for weight in head.state_dict().values():
        if weight.shape not in drawn:
            drawn[weight.shape] = torch.empty(weight.shape).normal_(std=DEVIATION)
    head.load_state_dict({name: drawn[weight.shape] for name, weight in head.state_dict().items()}, assign=True)
    return head.eval()
