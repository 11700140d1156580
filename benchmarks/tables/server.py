"""The server under load."""

from __future__ import annotations

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def load() -> str:
    """Answers, times and resources of the server under load."""
    measured = read_json(XEON_AMX / "serve-load.json")
    memory = measured["resident_megabytes"]
    times = {
        "first token, with the time of waiting for other clients": (measured["first_token_ms"], ",.0f"),
        "first token from the request's turn on": (measured["first_token_without_waiting_ms"], ",.0f"),
        "each further token": (measured["each_token_ms"], ".1f"),
    }
    answers = paragraph(
        f"Measured on {measured['machine']}, with {measured['clients']} clients in "
        f"{measured['seconds'] / 60:.0f} minutes. {measured['finished']:,} answers came to their end, and all of them "
        f"were right. Clients closed {measured['closed_early']} streams early, which were right up to there. "
        f"{sum(measured['errors'].values())} requests failed."
    )
    rows = [[label, f"{ms['p50']:{form}} ms", f"{ms['p99']:{form}} ms"] for label, (ms, form) in times.items()]
    resources = paragraph(
        f"Memory was {memory['second_tenth']:.0f} MB in the second tenth of the time and {memory['last_tenth']:.0f} MB "
        f"in the last tenth. The server had {measured['threads']['first']} threads and "
        f"{measured['open_files']['first']} open files at the beginning, {measured['threads']['last']} threads and "
        f"{measured['open_files']['last']} open files at the end."
    )
    return blocks(answers, table(["", "p50", "p99"], rows), resources)
