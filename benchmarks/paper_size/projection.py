"""Speedups at the paper's size: times that are measured here, tokens a round that others published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape

BLOCKS: Final = {1: "one block", 5: "five blocks"}

Shape = ChainShape | TreeShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Tokens a round on HumanEval that somebody measured with a trained head.

    Attributes:
        shape: the chain or the tree that was drafted.
        tokens: tokens a round, the bonus token included.
        source: who measured it, and with what.
    """

    shape: Shape
    tokens: float
    source: str

    @property
    def rows(self) -> int:
        """Number of rows of the forward that verifies it."""
        return self.shape.num_rows if isinstance(self.shape, TreeShape) else 1 + self.shape.num_tokens


SPECFORGE: Final = "SpecForge's SpecBundle head of EAGLE-3's kind for Llama-3.1-8B, SGLang, greedy chains"
# LLaMA2-Chat-7B in fp32 on the CPU, a drafter of five blocks in 3 GB of a GPU.
PAPER: Final = "Dovetail, arXiv 2412.18934, a drafter of five blocks"
PAPER_SPEEDUP: Final = 2.77
PUBLISHED: Final = {
    "chain 3": Published(shape=ChainShape.fixed(3), tokens=3.34, source=SPECFORGE),
    "chain 5": Published(shape=ChainShape.fixed(5), tokens=4.32, source=SPECFORGE),
    "chain 7": Published(shape=ChainShape.fixed(7), tokens=4.91, source=SPECFORGE),
    "tree 16/7/10": Published(shape=TreeShape(num_rows=16, num_expansions=7, width=10), tokens=5.90, source=PAPER),
}


def projections(
    verify_ms: Mapping[int, float], draft_ms: Mapping[int, Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """What `projected` gives for each key of `PUBLISHED`."""
    return {name: projected(name, verify_ms, draft_ms) for name in PUBLISHED}


def projected(name: str, verify_ms: Mapping[int, float], draft_ms: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Speedups over decoding without speculation, by what drafts.

    A speedup is `tokens a round * single_row_ms / (draft_ms + verify_ms)`.

    Args:
        name: key of `PUBLISHED`.
        verify_ms: milliseconds of a forward, by rows.
        draft_ms: milliseconds of drafting, by number of blocks and by key of `PUBLISHED`.
    """
    published = PUBLISHED[name]
    spent = {f"{label} on this CPU": draft_ms[number][name] for number, label in BLOCKS.items()}
    # The limit of a drafter on a device of its own.
    spent["no time for drafting"] = 0.0
    return {
        "rows": published.rows,
        "tokens_a_round": published.tokens,
        "source": published.source,
        "speedup": {
            label: round(published.tokens * verify_ms[1] / (ms + verify_ms[published.rows]), 3)
            for label, ms in spent.items()
        },
    }
