"""The server under load."""

from __future__ import annotations

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def load() -> str:
    """What `make load` found."""
    measured = read_json(XEON_AMX / "serve-load.json")
    memory = measured["resident_megabytes"]
    times = {
        "first token, with the time of waiting for other clients": (measured["first_token_ms"], ",.0f"),
        "first token from the request's turn on": (measured["first_token_without_waiting_ms"], ",.0f"),
        "each further token": (measured["each_token_ms"], ".1f"),
    }
    answers = paragraph(
        f"{measured['machine']}, {measured['clients']} clients, {measured['seconds'] / 60:.0f} minutes: "
        f"{measured['finished']:,} answers came to their end, all of them right, and {measured['closed_early']} "
        f"streams were closed by their client, right so far; {sum(measured['errors'].values())} requests failed."
    )
    rows = [[label, f"{ms['p50']:{form}} ms", f"{ms['p99']:{form}} ms"] for label, (ms, form) in times.items()]
    resources = paragraph(
        f"Memory was {memory['second_tenth']:.0f} MB in the second tenth of the time and {memory['last_tenth']:.0f} MB "
        f"in the last; there were {measured['threads']['first']} threads and {measured['open_files']['first']} open "
        f"files at first, {measured['threads']['last']} and {measured['open_files']['last']} at last."
    )
    return blocks(answers, table(["", "p50", "p99"], rows), resources)
