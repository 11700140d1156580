"""A graph for chains alone, beside the one for trees: a small second file over the same weights.

It knows no head and no model: it reads a graph that was saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.pipeline import make_pass, run_pass
from dovetail_ort_export.recipe import Step
from dovetail_ort_export.writing.graph_file import load_graph
from dovetail_ort_runtime.engine.graph_choice import check_bias
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.machine.processor import usable_cores

_PASSES: Final = ("drop-bias", "keep-scored-states")


def chain_graph_name(graph: str) -> str:
    """Name of the graph for chains in a bundle, beside the graph `graph`."""
    return f"{graph.removesuffix('.onnx')}_chains.onnx"


def write_chain_graph(path: Path, name: str) -> None:
    """Write the graph for chains beside a saved graph, over the weights of that graph.

    Args:
        path: file of a draft graph, or of a target's front graph.
        name: name of the new file.

    Raises:
        InputError: something else than attention reads the bias.
        BundleError: ONNX Runtime refuses the new graph.
    """
    graph = load_graph(path)
    for step in _PASSES:
        graph = run_pass(graph, step, make_pass(Step(step))).model
    chains = path.with_name(name)
    ir.save(graph, chains)
    check_bias(open_session(chains, usable_cores()), chains, for_chains=True)  # it loads: a GPU may be far away
