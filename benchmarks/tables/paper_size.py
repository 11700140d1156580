"""LLaMA-2-7B's shape with random weights, and the projection."""

from __future__ import annotations

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import LLAMA2_SHAPE, read_json

RESULTS = LLAMA2_SHAPE / "results"


def paper_size() -> str:
    """What export and passes cost, and the speedup that follows with the paper's tokens a round."""
    by_row, by_block = (read_json(RESULTS / f"paper-size-{name}.json") for name in ("row", "block"))
    verify, export, paper = by_row["verify"], by_row["export"], by_row["projection"]["paper"]
    rows = []
    for number, projected in by_row["projection"]["by_rows"].items():
        speedup = projected["speedup"]
        rows.append(
            [
                f"{number} rows",
                f"{projected['tokens_a_round']:.2f}",
                f"{verify[number]['median_ms']:.0f}",
                f"{verify[number]['over_one_row'][1]:.2f}",
                f"{by_block['verify'][number]['over_one_row'][1]:.2f}",
                f"{speedup['no time for drafting']:.2f}x",
                f"{speedup['one block on this CPU']:.2f}x",
            ]
        )
    setting = paragraph(
        f"Exported in {export['peak_memory_bytes'] / 1e9:.1f} GB of memory and run in INT8 by rows "
        f"({export['num_bytes'] / 1e9:.1f} GB), {'exact' if by_row['target']['exact'] else 'not exact'}, on "
        f"{by_row['machine']}: a plain step takes {verify['1']['median_ms']:.0f} ms and reads weights at "
        f"{verify['1']['of_read_bandwidth']:.0%} of what the machine reads, an exact one "
        f"{verify['2']['median_ms']:.0f} ms. The paper measured {paper['speedup']:.2f}x, with "
        f"{paper['tokens_a_round']:.2f} tokens a round of {paper['rows']} rows."
    )
    header = ["verified", "tokens a round", "ms a pass", "over one row", "over one row, in blocks"]
    header += ["a drafter that takes no time", "one block, on this CPU"]
    return blocks(setting, table(header, rows))


def random_weights() -> str:
    """How far either format is from a model of random weights."""
    kl = {
        name: read_json(RESULTS / f"paper-size-{name}.json")["export"]["measurements"]["agreement"]["mean_kl"]
        for name in ("row", "block")
    }
    return paragraph(
        f"On the random weights the row format is {kl['row']:.3f} nats of KL divergence from the model and the block "
        f"format {kl['block']:.3f}."
    )
