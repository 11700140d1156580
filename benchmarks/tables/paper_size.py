"""LLaMA-2-7B's shape with random weights, and the projection."""

from __future__ import annotations

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def paper_size() -> str:
    """What export and forwards cost, and the speedup that follows with published tokens a round."""
    measured = read_json(XEON_AMX / "paper-size.json")
    verify = measured["verify"]
    export = measured["export"]
    setting = paragraph(
        f"The export took {export['peak_memory_bytes'] / 1e9:.1f} GB of memory. The model runs in INT8 "
        f"({export['num_bytes'] / 1e9:.1f} GB, {measured['target']['format']}) on {measured['machine']}, with "
        f"{measured['num_past']} tokens of context; figures are medians of {measured['processes']} processes. A plain "
        f"sum over the weights reads {verify['1']['read_gigabytes_per_second']:.0f} GB/s:"
    )
    forwards = [
        [
            rows,
            f"{found['median_ms']:.0f}",
            f"{found['over_one_row']:.2f}",
            f"{found['of_read_bandwidth']:.0%}",
        ]
        for rows, found in verify.items()
    ]
    projected = [
        [
            name,
            f"{found['rows']}",
            f"{found['tokens_a_round']:.2f}",
            f"{found['speedup']['no time for drafting']:.2f}x",
            f"{found['speedup']['one block on this CPU']:.2f}x",
            f"{found['speedup']['five blocks on this CPU']:.2f}x",
            found["source"],
        ]
        for name, found in measured["projection"]["by_shape"].items()
    ]
    paper = paragraph(
        f"The paper measured {measured['projection']['paper_speedup']:.2f}x. The speedups here are projected from "
        "measured times and published tokens a round on HumanEval."
    )
    header = ["drafted", "rows", "tokens a round", "a drafter that takes no time", "one block, on this CPU"]
    header += ["five blocks, on this CPU", "tokens a round are of"]
    return blocks(
        setting,
        table(["rows of a forward", "ms", "over one row", "pace over that of the sum"], forwards),
        table(header, projected),
        paper,
    )


def random_weights() -> str:
    """How far the export is from a model of random weights."""
    agreement = read_json(XEON_AMX / "paper-size.json")["export"]["measurements"]["agreement"]
    return paragraph(
        f"With the random weights, the KL divergence of the native format from the model is "
        f"{agreement['mean_kl']:.3f} nats."
    )
