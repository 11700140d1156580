"""The README's figures are those of the committed result files, and its commands exist."""

import json
import math
import re
import statistics
from pathlib import Path

from dovetail_ort.commands import COMMANDS

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
WORDS = " ".join(README.split())
CONSTANT_SCALE = "row, constant scale"
RESULTS = REPOSITORY / "models" / "smollm2-135m-instruct" / "results"


def result(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def row(label):
    """Cells of the one table row that begins with `label`."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_humaneval_table_quotes_the_result_files_of_both_machines():
    quartiles, lengths = [], []
    for column, name in ((1, "humaneval.json"), (3, "without-vnni/humaneval.json")):
        measured = result(name)
        rates = {mode: found["decode_tokens_per_second"] for mode, found in measured["modes"].items()}
        fastest = max(rates["plain, exact"], rates["plain, one-row kernel"])
        for label, mode in (
            ("plain, one-row kernel", "plain, one-row kernel"),
            ("plain, exact", "plain, exact"),
            ("speculative, exact", "speculative"),
        ):
            assert row(label)[column : column + 2] == [f"{rates[mode]:.0f}", f"{rates[mode] / fastest:.2f}x"]
        assert f"{measured['num_identical']} of {measured['num_prompts']}" in README
        assert f"{measured['machine'].removesuffix(', avx2')}, no GPU" in README
        drafter = next(session for session in measured["sessions"] if session["name"] == "drafter")
        assert f"its drafter {drafter['weight_bytes'] / 1e6:.0f} MB more" in README
        lengths.append(f"{measured['accepted_length']:.2f}")
        quartiles.append("{:.2f}x to {:.2f}x".format(*measured["speedup_quartiles"]))
    assert "{} tokens a round with VNNI, {} without".format(*lengths) in WORDS
    assert "By prompt the speedup is {} with VNNI, {} without (quartiles)".format(*quartiles) in WORDS
    general = [result(name)["speedup"] for name in ("general.json", "without-vnni/general.json")]
    assert "On the 40 general prompts it is {:.2f}x with VNNI, {:.2f}x without".format(*general) in WORDS


def shipped_head():
    return json.loads((RESULTS.parent / "head" / "head.json").read_text(encoding="utf-8"))


def test_the_model_card_quotes_the_head_and_what_was_measured_of_it():
    card = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    head, planner = shipped_head(), result("planner.json")
    last = head["history"][-1]
    for part, times in zip((head["start"], head), result("head-training.json")["parts"], strict=True):
        assert f"{part['num_answer_tokens']:,} answer tokens of {part['num_conversations']:,} conversations" in card
        assert re.search(rf"{part['num_conversations']:,} conversations, .* in {times['text_minutes']} minutes", card)
        assert f"{times['training_minutes']} minutes on {part['machine']}, " in card
    assert f"{head['start']['num_overlapping']} and {head['num_overlapping']} conversations that share" in card
    assert f"| {', '.join(f'{share:.1%}' for share in last['acceptance'])} (draft tokens 1 to 7) |" in card
    assert f"| {last['accepted_length']:.2f} tokens a round |" in card
    for choices in planner["suites"].values():
        chain, planned = choices["chain 4"], choices["planner, both"]
        first, length = chain["first_token_accepted"], chain["accepted_length"]
        assert f"accepted in {first:.1%} of rounds, {length:.2f} tokens" in card
        assert f"{planned['accepted_length']:.2f} as planned" in card
    curves = planner["curves"]
    four = dict(zip(curves["catch_up_rows"], curves["catch_up_ms"], strict=True))[2] + 3 * curves["step_ms"]
    assert f"| {four:.2f} ms, {four / curves['verify_ms'][0][0]:.2f} of a single-token step" in card


def test_planner_table_quotes_the_result_file_and_the_planner_is_ahead():
    suites = result("planner.json")["suites"]
    for name in suites["humaneval"]:
        cells = [
            text
            for suite in ("humaneval", "general")
            for text in (f"{suites[suite][name]['accepted_length']:.2f}", f"{suites[suite][name]['speedup']:.2f}x")
        ]
        assert row(name)[1:] == cells
    curves, ahead = result("planner.json")["curves"], result("planner.json")["chains of 4, drafted ahead"]["humaneval"]
    left = (1 - ahead["ready"]) * suites["humaneval"]["chain 4"]["draft_ms"]
    share = left / (left + dict(zip(curves["verify_rows"], curves["verify_ms"][0], strict=True))[5])
    assert share < 0.1
    assert f"are ready {ahead['ready']:.0%} of the time on HumanEval" in WORDS
    assert f"At this CPU's times {share:.0%} of a round would be left there" in WORDS
    for choices in suites.values():
        fixed = [choice["speedup"] for name, choice in choices.items() if not name.startswith("planner")]
        assert choices["planner, both"]["speedup"] > max(fixed)


def test_what_spinning_costs_is_told():
    measured = result("spinning.json")
    median = measured["speed_over_spinning"][1]
    words = f"take {median:.2f} times as long (median of {measured['num_prompts']} prompts in turns)"
    assert words in WORDS


def speeds_over_exact_plain(name, times=1):
    """By prompt; the median where the suite was run several times over."""
    rates = [prompt["decode_tokens_per_second"] for prompt in result(name)["prompts"]]
    ratios = [rate["speculative"] / rate["plain, exact"] if rate["plain, exact"] else math.inf for rate in rates]
    size = len(ratios) // times
    return [statistics.median(ratios[number::size]) for number in range(size)]


def test_no_prompt_is_slower_than_exact_plain_decoding_and_the_slowest_are_told():
    for suite, words in (("humaneval", "of HumanEval"), ("general", "of the general suite"), ("defeating", "of these")):
        assert min(speeds_over_exact_plain(f"{suite}.json")) > 0.97
        measured = result(f"without-vnni/{suite}.json")
        assert measured["num_identical"] == measured["num_prompts"]
        least = min(speeds_over_exact_plain(f"without-vnni/{suite}.json", times=3 if suite == "general" else 1))
        assert least >= 1
        assert f"{least:.2f} {words}" in WORDS


def test_peers_table_quotes_the_result_file_and_we_are_ahead():
    measured = result("peers.json")
    assert f"on {measured['num_prompts']} prompts spread over HumanEval" in WORDS
    for peer, found in measured["peers"].items():
        rates = {mode: times["median_decode_tokens_per_second"] for mode, times in found["modes"].items()}
        fastest = max(rates, key=rates.__getitem__)
        for mode in ("plain", fastest):
            times = found["modes"][mode]
            assert row(f"{peer} {mode}")[1:] == [
                f"{rates[mode]:.0f}",
                f"{times['median_prefill_ms']:.0f}",
                f"{times['ours_over_it'][1]:.2f}x",
                f"{times['prompts_that_differ_from_own_plain']}",
            ]
            assert times["ours_over_it"][1] > 1 or f"{peer} {mode}" == measured["ours"]


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


def test_the_page_of_the_server_quotes_the_load_it_stood():
    page = " ".join((REPOSITORY / "docs" / "server.md").read_text(encoding="utf-8").split())
    measured = result("serve-load.json")
    assert (measured["clients"], measured["errors"], measured["server_exit_status"]) == (16, {}, 0)
    assert measured["seconds"] > 600
    finished = f"{measured['finished']:,} answers"
    assert f"{finished} came to their end, all of them right, and {measured['closed_early']} streams" in page
    assert f"all of {finished} were right and memory stayed flat" in WORDS
    waiting, own = measured["first_token_ms"], measured["first_token_without_waiting_ms"]
    each, memory = measured["each_token_ms"], measured["resident_megabytes"]
    for label, times, form in (
        ("first token, waiting behind the 15 others included", waiting, ",.0f"),
        ("first token from the request's turn on", own, ",.0f"),
        ("each further token", each, ".1f"),
    ):
        assert f"| {label} | {times['p50']:{form}} ms | {times['p99']:{form}} ms |" in page
    assert f"{memory['second_tenth']:.0f} MB in the second minute and {memory['last_tenth']:.0f} MB in the last" in page
    for name in ("threads", "open_files"):
        assert measured[name]["first"] == measured[name]["last"]
    assert f"stayed {measured['threads']['last']} and {measured['open_files']['last']}" in page


def test_the_tree_names_files_that_are_there():
    (tree,) = re.findall(r"## Where things are\n\n```\n(.*?)```", README, re.DOTALL)
    folder, missing = REPOSITORY, []
    for line in tree.splitlines():
        names = re.split(r" {2,}", line.strip())[0]
        if line.startswith(" "):
            missing += [name for name in names.split(", ") if not (folder / name).exists()]
        elif "{" not in names:
            folder = REPOSITORY / names
            missing += [] if folder.is_dir() else [names]
    assert not missing


def test_the_table_without_vnni_quotes_the_result_files():
    measured = result("without-vnni/int8-formats.json")
    assert measured["machine"].endswith("avx2")
    suite, agreement = measured["humaneval"], measured["agreement"]["all"]
    for column, name in enumerate(("block", "row"), start=1):
        assert row("top-1 agreement with fp32, no VNNI")[column] == f"{agreement[name]['top1']:.1%}"
        assert row("mean KL from fp32, no VNNI, nats")[column] == f"{agreement[name]['mean_kl']:.4f}"
        for rows in (1, 2, 4, 8, 64):
            label = f"pass over {rows} row{'s' if rows > 1 else ''}, no VNNI, ms"
            assert row(label)[column] == f"{measured['passes'][name][str(rows)]['median_ms']:.1f}"
        found = suite["formats"][name]
        speedup = found["speedup_over_the_fastest_plain_of_both"]
        assert row("lookup over the fastest plain of both, no VNNI")[column] == f"{speedup:.2f}x"
        assert row("identical to plain, no VNNI")[column] == f"{found['identical']} of {suite['num_prompts']}"
    costs = result("without-vnni/layer-costs.json")
    assert costs["row_format"] == "row-unsigned"
    ratios = {rows: found["over_block"][1] for rows, found in costs["layers"]["4096 x 11008"][CONSTANT_SCALE].items()}
    words = f"takes {ratios['2']:.2f} of the block format's time for 2 rows, {ratios['4']:.2f} for 4, {ratios['8']:.2f}"
    assert words in WORDS


def test_the_table_of_growth_quotes_the_result_file():
    measured = result("growth.json")
    for length, found in measured["contexts"].items():
        assert found["identical"] == measured["num_texts"] == 3
        modes = [found["modes"][mode] for mode in ("plain, one-row kernel", "plain, exact", "speculative")]
        speculative = modes[-1]
        assert row(length)[1:] == [
            *(f"{mode['tokens_per_second']:.0f}" for mode in modes),
            f"{speculative['tokens_a_round']:.2f}",
            f"{speculative['megabytes_per_token']:.0f}",
        ]


def test_the_section_on_the_papers_size_quotes_the_result_files():
    results = REPOSITORY / "models" / "llama-2-7b-shape" / "results"
    by_row, by_block = (json.loads((results / f"paper-size-{name}.json").read_text()) for name in ("row", "block"))
    verify, export = by_row["verify"], by_row["export"]
    assert by_row["target"]["exact"]
    assert export["peak_memory_bytes"] < 24e9
    assert f"in {export['peak_memory_bytes'] / 1e9:.1f} GB of memory and run in INT8 by rows" in WORDS
    assert f"rows ({export['num_bytes'] / 1e9:.1f} GB), exact" in WORDS
    one, two = verify["1"], verify["2"]
    assert f"takes {one['median_ms']:.0f} ms and reads weights at {one['of_read_bandwidth']:.0%} of what" in WORDS
    assert f"an exact one {two['median_ms']:.0f} ms" in WORDS
    for rows, projected in by_row["projection"]["by_rows"].items():
        speedup = projected["speedup"]
        assert row(f"{rows} rows")[1:] == [
            f"{projected['tokens_a_round']:.2f}",
            f"{verify[rows]['median_ms']:.0f}",
            f"{verify[rows]['over_one_row'][1]:.2f}",
            f"{by_block['verify'][rows]['over_one_row'][1]:.2f}",
            f"{speedup['no time for drafting']:.2f}x",
            f"{speedup['one block on this CPU']:.2f}x",
        ]


def test_the_table_of_draft_heads_quotes_the_ablation():
    measured = result("ablation.json")
    labels = {
        "base": "base",
        "all-tokens": "base, drafting all tokens",
        "concatenation": "concatenation in place of gating",
        "2-blocks": "2 blocks",
        "3-blocks": "3 blocks",
        "5-blocks": "5 blocks",
        "full-vocabulary": "trained on all tokens, drafting all",
        "one-step": "trained with single steps only",
        "half-the-text": "half the text, read twice",
        "quarter-of-the-text": "a quarter of it, read four times",
        "head": "ten times the text, read three times",
    }
    assert measured["heads"].keys() == labels.keys()
    tokens = {name: head["num_answer_tokens"] for name, head in measured["heads"].items()}
    assert round(tokens["head"] / tokens["base"]) == 10
    assert f"trained once on {tokens['base']:,} tokens of answers" in WORDS
    assert f"goes on from there with {shipped_head()['num_answer_tokens']:,} tokens more" in WORDS
    number = measured["num_prompts"]
    assert f"{number} prompts spread over HumanEval and {number} general ones" in WORDS
    for name, label in labels.items():
        humaneval, general = (measured["heads"][name]["suites"][suite] for suite in ("humaneval", "general"))
        chains = {shape: found for shape, found in humaneval.items() if shape.startswith("chain")}
        best = max(chains, key=lambda shape: chains[shape]["computed_speedup"])
        assert row(label)[1:] == [
            f"{humaneval['chain 4']['first_token_accepted']:.1%}",
            *(f"{found['accepted_length']:.2f}" for found in humaneval.values()),
            f"{general['chain 4']['accepted_length']:.2f}",
            f"{humaneval['chain 4']['draft_ms']:.1f}",
            f"{chains[best]['computed_speedup']:.2f}x, {best.removeprefix('chain ')}",
        ]
    drafting = {name: head["suites"]["humaneval"]["chain 4"]["draft_ms"] for name, head in measured["heads"].items()}
    assert "takes three times as long to draft as one of 8,192" in WORDS
    assert round(drafting["full-vocabulary"] / drafting["base"]) == 3


def test_side_branches_change_as_many_answers_as_was_measured():
    measured = result("without-vnni/humaneval-trees.json")
    assert not measured["exact"]
    assert measured["speedup"] < 1
    differ = measured["num_prompts"] - measured["num_identical"]
    assert f"on {differ} of HumanEval's {measured['num_prompts']} with trees 7/4/10, which do not pay" in WORDS


def test_every_command_of_the_readme_exists_and_every_command_is_in_it():
    assert set(re.findall(r"`dovetail-ort (\w+)", README)) == set(COMMANDS)


def test_the_section_on_graphs_quotes_the_ablation_and_what_operators_cost():
    variants = {variant["name"]: variant for variant in result("graph/ablation.json")["variants"]}
    assert f"KL divergence {variants['without equalize']['agreement']['mean_kl']:.4f} in place of" in WORDS
    faster = 1 - variants["row-attention-in-blocks"]["over_whole"]["2"]
    assert f"makes a pass over 2 rows {faster:.0%} faster" in WORDS
    costs, rates = result("graph/operator-costs.json"), []
    assert f"without VNNI, which reads {costs['read_bandwidth'] / 1e9:.0f} GB/s" in WORDS
    for label, name in (("by rows", "row-unsigned"), ("in blocks", "block")):
        found = costs["graphs"][name]["2"]
        products = found["products"]
        share = {part: measured["share"][1] for part, measured in found["parts"].items()}
        quantising = sum(share.get(part, 0) for part in ("QuantizeLinear", "Abs", "ReduceMax"))
        assert row(label)[1:] == [
            f"{found['pass_ms']:.1f}",
            f"{products['share']:.0%}",
            f"{products['bytes_per_second'] / 1e9:.1f}",
            f"{products['share_again']:.0%}",
            f"{share['GroupQueryAttention']:.0%}",
            f"{share['neither product nor attention']:.0%}",
            f"{quantising:.0%}" if quantising else "in the product",
        ]
        assert 0.9 < products["share_again"] / products["share"] < 1.1
        rates.append(f"{products['share_of_read_bandwidth']:.0%}")
    assert f"at {rates[0]} and {rates[1]} of what memory could deliver" in WORDS
    four = result("graph/unrolled-drafting.json")["steps"]["4"]
    less, saved = 1 - four["unrolled_over_calls"][1], four["share_of_a_round_saved"][1]
    assert f"takes {less:.0%} less than by four calls, {saved:.1%} of a round" in WORDS


def test_the_frozen_example_is_as_large_and_as_quick_as_was_measured():
    measured = result("frozen.json")
    megabytes, seconds = measured["application_bytes"] / 1e6, measured["start_to_first_text_ms"][1] / 1e3
    assert f"{megabytes:.0f} MB, {seconds:.1f} s to the first text" in WORDS
