"""The README's figures are those of the committed result files, and its commands exist."""

import json
import re
from pathlib import Path

from dovetail_ort.command_line import COMMANDS

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
RESULTS = REPOSITORY / "models" / "smollm2-135m-instruct" / "results"


def result(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def row(label):
    """Cells of the one table row that begins with `label`."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_humaneval_table_quotes_the_result_file():
    measured = result("humaneval.json")
    plain_exact = measured["modes"]["plain, exact"]["decode_tokens_per_second"]
    for label, mode in (
        ("plain, one-row kernel", "plain, one-row kernel"),
        ("plain, exact", "plain, exact"),
        ("speculative, exact", "speculative"),
    ):
        rate = measured["modes"][mode]["decode_tokens_per_second"]
        assert row(label)[1] == f"{rate:.0f}"
        fastest = max(plain_exact, measured["modes"]["plain, one-row kernel"]["decode_tokens_per_second"])
        assert row(label)[2] == f"{rate / fastest:.2f}x"
    assert f"{measured['num_identical']} of {measured['num_prompts']}" in README
    assert f"{measured['accepted_length']:.2f} tokens a round" in README
    assert measured["machine"] in README


def test_drafter_table_quotes_the_result_files():
    for label, name in (
        ("`lookup`", "humaneval-lookup.json"),
        ("`dgf`", "humaneval-dgf.json"),
        ("`auto`: lookup in front of `dgf`", "humaneval.json"),
    ):
        measured = result(name)
        rounds = measured["accepted_histogram"]
        assert row(label)[1:] == [
            f"{measured['accepted_length']:.2f}",
            f"{measured['drafted_per_round']:.2f}",
            f"{1 - rounds[0] / sum(rounds):.0%}",
            f"{measured['shares']['draft']:.1%}",
            f"{measured['speedup']:.2f}x",
            f"{measured['num_identical']} of {measured['num_prompts']}",
        ]


def test_genai_table_quotes_the_result_file():
    measured = result("onnxruntime-genai.json")
    for name, system in measured["systems"].items():
        cells = row(name)
        assert cells[1] == f"{system['median_decode_tokens_per_second']:.0f}"
        assert cells[2] == f"{system['over_genai_as_built']:.2f}x"
        assert cells[3] == f"{system['over_genai_plain']:.2f}x"
        assert cells[4] == f"{system['prompts_that_differ_from_own_plain']}"


def test_format_table_quotes_the_result_file():
    measured = result("int8-formats.json")
    speculation, agreement = measured["humaneval"], measured["agreement"]["all"]
    for column, name in enumerate(("block", "row"), start=1):
        assert row("bundle, MB")[column] == f"{measured['bytes'][name] / 1e6:.0f}"
        assert row("top-1 agreement with fp32")[column] == f"{agreement[name]['top1']:.1%}"
        assert row("mean KL from fp32, nats")[column] == f"{agreement[name]['mean_kl']:.4f}"
        above = agreement[name]["nll"] - agreement["fp32"]["nll"]
        assert row("mean negative log-likelihood over fp32's, nats")[column] == f"{above:+.4f}"
        for rows in (1, 2, 4, 8, 16, 64):
            label = f"pass over {rows} row{'s' if rows > 1 else ''}, ms"
            assert row(label)[column] == f"{measured['passes'][name][str(rows)]['median_ms']:.1f}"
        median = measured["passes"][name]["8"]["over_own_single_row"][1]
        assert row("8 rows over 1, median")[column] == f"{median:.2f}"
        found = speculation["formats"][name]
        for mode, rate in found["tokens_per_second"].items():
            assert row(f"HumanEval, {mode}, tokens/s")[column] == f"{rate:.0f}"
        speedup = found["speedup_over_the_fastest_plain_of_both"]
        assert row("speculative over the fastest plain of both")[column] == f"{speedup:.2f}x"
        assert row("identical to plain")[column] == f"{found['identical']} of {speculation['num_prompts']}"


def test_every_command_of_the_readme_exists_and_every_command_is_in_it():
    assert set(re.findall(r"`dovetail-ort (\w+)", README)) == set(COMMANDS)
