"""Draft heads: the shipped one, and what was compared with a base."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import EPYC_AVX2, SMOLLM2, XEON_AMX, read_json

VARIANTS: Final = {
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
SUITES: Final = {"humaneval": "HumanEval", "general": "40 general prompts"}


def draft_heads() -> str:
    """Tokens a round of each head."""
    measured = read_json(EPYC_AVX2 / "ablation.json")
    shipped = read_json(SMOLLM2 / "head" / "head.json")
    base = measured["heads"]["base"]
    number = measured["num_prompts"]
    setting = paragraph(
        f"The base was trained once on {base['num_answer_tokens']:,} tokens of answers and drafts "
        f"{base['draft_vocabulary_size']:,} tokens. The training of the shipped head continues that of the last row "
        f"with {shipped['num_answer_tokens']:,} tokens of new text. All heads drafted for {number} prompts spread over "
        f"HumanEval and {number} general ones, on {measured['machine']}. The target had 8 bits with one scale for each "
        "row, a format that does not exist any more:"
    )
    suites = base["suites"]["humaneval"]
    shapes = [_short(shape, first=number == 0) for number, shape in enumerate(suites)]
    header = ["head", "first token", *shapes, "general, K = 4"]
    rows = [[label, *_head(measured["heads"][name]["suites"])] for name, label in VARIANTS.items()]
    return blocks(setting, table(header, rows))


def _short(shape: str, *, first: bool) -> str:
    """The heading of a column: "K = 2", "3", "tree 7"."""
    kind, size = shape.split(" ", 1)
    if kind == "chain":
        return f"K = {size}" if first else size
    return f"{kind} {size.split('/')[0]}"


def _head(suites: dict[str, Any]) -> list[str]:
    humaneval = suites["humaneval"]
    general = suites["general"]
    return [
        f"{humaneval['chain 4']['first_token_accepted']:.1%}",
        *(f"{found['accepted_length']:.2f}" for found in humaneval.values()),
        f"{general['chain 4']['accepted_length']:.2f}",
    ]


def draft_head() -> str:
    """The shipped head: its text and its training; what it accepts and costs, if that was measured."""
    head = read_json(SMOLLM2 / "head" / "head.json")
    start = head["start"]
    last = head["history"][-1]
    shares = ", ".join(f"{share:.1%}" for share in last["acceptance"])
    length = len(last["acceptance"])
    rows = [
        ["text", _text(start)],
        ["new text, from prompts not used before", _text(head)],
        [
            "left out",
            f"{start['num_overlapping']} and {head['num_overlapping']} conversations that share ten words in a row "
            "with a prompt, solution or test of HumanEval",
        ],
        ["training", _training(start)],
        ["training on new text", _training(head)],
        [
            "held-out new text, accepted if all before were",
            f"{shares} (draft tokens 1 to {length})",
        ],
        [f"held-out new text, chains of {length}", f"{last['accepted_length']:.2f} tokens a round"],
    ]
    with contextlib.suppress(FileNotFoundError):
        rows += _measured_rows()
    return table(["", ""], rows, numbers=False)


def _measured_rows() -> list[list[str]]:
    planner = read_json(XEON_AMX / "planner.json")
    return [
        *([f"{label}, chains of 4", _accepted(planner["suites"][suite])] for suite, label in SUITES.items()),
        ["drafting four tokens", _drafting_four(planner["curves"])],
    ]


def _text(part: dict[str, Any]) -> str:
    options = part["options"]
    return (
        f"{part['num_answer_tokens']:,} answer tokens of {part['num_conversations']:,} conversations, written by the "
        f"INT8 graph, {options['num_parallel']} at a time; "
        f"{options['opening_share']:.0%} of the questions begin with words of ours, {options['prompt_share']:.0%} are "
        "prompts of ours, the others are the model's own"
    )


def _training(part: dict[str, Any]) -> str:
    options = part["options"]
    epochs = {1: "once", 2: "twice"}.get(options["num_epochs"], f"{options['num_epochs']} times")
    return (
        f"{epochs}, the first {options['one_step_share']:.0%} with single steps, the rest with "
        f"{options['unrolled_steps']} steps unrolled, learning rate {options['learning_rate']:g}; "
        f"{part['training_seconds'] / 60:.0f} minutes on {part['machine']}"
    )


def _accepted(choices: dict[str, Any]) -> str:
    chain = choices["chain 4"]
    planned = choices["planner, both, trees"]
    return (
        f"first token accepted in {chain['first_token_accepted']:.1%} of rounds, {chain['accepted_length']:.2f} tokens "
        f"a round; {planned['accepted_length']:.2f} as planned, with lookup"
    )


def _drafting_four(curves: dict[str, Any]) -> str:
    catch_up_ms = dict(zip(curves["catch_up_rows"], curves["catch_up_ms"], strict=True))[2]
    four_ms = catch_up_ms + 3 * curves["step_ms"]
    step_ms = curves["verify_ms"][0][0]
    return f"{four_ms:.2f} ms, {four_ms / step_ms:.2f} of a forward over one row, {step_ms:.2f} ms"
