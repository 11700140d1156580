"""A graph for chains alone, beside the one for trees: a small second file over the same weights."""

from pathlib import Path
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.graph_file import load_graph
from dovetail_ort_export.pass_pipeline import make_pass, run_pass
from dovetail_ort_export.recipe import Step

_PASSES: Final = ("drop-bias", "keep-scored-states")


def chain_graph_name(graph: str) -> str:
    """What a bundle calls the graph for chains of the graph `graph`."""
    return f"{graph.removesuffix('.onnx')}_chains.onnx"


def write_chain_graph(path: Path, name: str) -> None:
    """Write what a saved graph is for chains alone beside it; its weights are those that lie there already.

    Args:
        path: of a drafter's graph or of a target's front graph.
        name: of the new file.

    Raises:
        InputError: something else than attention reads the bias.
    """
    graph = load_graph(path)
    for step in _PASSES:
        graph = run_pass(graph, step, make_pass(Step(step))).model
    ir.save(graph, path.with_name(name))
