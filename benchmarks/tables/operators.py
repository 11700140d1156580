"""What operators of the target cost."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import RESULTS, read_json

FORMATS: Final = {"row-unsigned": "by rows", "block": "in blocks"}
QUANTISING: Final = ("QuantizeLinear", "Abs", "ReduceMax")


def operator_costs() -> str:
    """Where the time of a pass over 2 rows goes, and what an unrolled chain would save."""
    costs = read_json(RESULTS / "graph" / "operator-costs.json")
    setting = paragraph(
        f"A pass over 2 rows behind {costs['num_past']} tokens, {costs['machine']}, which reads "
        f"{costs['read_bandwidth'] / 1e9:.0f} GB/s:"
    )
    rows = [[label, *_operators(costs["graphs"][name]["2"])] for name, label in FORMATS.items()]
    header = ["format", "ms", "products", "at GB/s", "of what memory delivers", "again, weights in caches"]
    header += ["attention", "all else", "of that, quantising inputs"]
    return blocks(setting, table(header, rows), _unrolled())


def _operators(found: dict[str, Any]) -> list[str]:
    products = found["products"]
    share = {part: measured["share"][1] for part, measured in found["parts"].items()}
    quantising = sum(share.get(part, 0) for part in QUANTISING)
    return [
        f"{found['pass_ms']:.1f}",
        f"{products['share']:.0%}",
        f"{products['bytes_per_second'] / 1e9:.1f}",
        f"{products['share_of_read_bandwidth']:.0%}",
        f"{products['share_again']:.0%}",
        f"{share['GroupQueryAttention']:.0%}",
        f"{share['neither product nor attention']:.0%}",
        f"{quantising:.0%}" if quantising else "in the product",
    ]


def _unrolled() -> str:
    four = read_json(RESULTS / "graph" / "unrolled-drafting.json")["steps"]["4"]
    return paragraph(
        f"A chain of 4 drafted by one unrolled graph takes {1 - four['unrolled_over_calls'][1]:.0%} less than by four "
        f"calls, {four['share_of_a_round_saved'][1]:.1%} of a round."
    )
