"""The same weights through other engines."""

from __future__ import annotations

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def peers() -> str:
    """Each engine without speculation, and in the fastest of its modes."""
    measured = read_json(XEON_AMX / "peers.json")
    rows = []
    for peer, found in measured["peers"].items():
        rates = {mode: times["median_decode_tokens_per_second"] for mode, times in found["modes"].items()}
        fastest = max(rates, key=rates.__getitem__)
        for mode in dict.fromkeys(("baseline", fastest)):
            times = found["modes"][mode]
            rows.append(
                [
                    f"{peer} {mode}",
                    f"{rates[mode]:.0f}",
                    f"{times['median_prefill_ms']:.0f}",
                    f"{times['ours_over_it'][1]:.2f}x",
                    f"{times['prompts_that_differ_from_own_baseline']}",
                ]
            )
    setting = paragraph(
        f"Measured on {measured['machine']}, with {measured['threads']} threads, {measured['num_prompts']} prompts "
        f"spread over HumanEval and answers of up to {measured['max_new_tokens']} tokens:"
    )
    header = ["", "tokens/s", "prefill, ms", "ours over it", "answers that differ from its own baseline"]
    return blocks(setting, table(header, rows))
