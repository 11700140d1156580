"""A graph without attention bias, for chains alone: when it is opened in the place of the one for trees.

CUDA's flash attention takes no bias. So a bundle may have such a graph beside that of the drafter or of a target's
first blocks. Both name the same weights, and one session has one of the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dovetail_ort_runtime.bundle.graph_names import ATTENTION_BIAS
from dovetail_ort_runtime.engine.devices import CUDA
from dovetail_ort_runtime.errors import BundleError


def graph_to_open(graph: Path, chain_graph: str | None, *, device: str, trees: bool) -> Path:
    """The graph for chains on CUDA, unless trees are drafted or there is none; else the one for both.

    Args:
        graph: path of the one for both.
        chain_graph: name of the other one, in the same folder, or None.
        device: `cpu` or `cuda`.
        trees: whether trees are drafted, too.
    """
    if device != CUDA or trees or chain_graph is None:
        return graph
    return graph.with_name(chain_graph)


def check_bias(session: Any, graph: Path, *, for_chains: bool) -> None:
    """Refuse a graph for chains with an attention bias, and one for trees without.

    Raises:
        BundleError: it is such a graph.
    """
    found = any(value.name == ATTENTION_BIAS for value in session.get_inputs())
    if found == for_chains:
        rule = "no input" if for_chains else "an input"
        raise BundleError(f"{graph.name} must have {rule} called {ATTENTION_BIAS}; do not use this bundle")
