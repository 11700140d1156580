"""Arguments that several commands have, and the options and the model that they ask for."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from typing import Any, Final

from dovetail_ort.cli.terminal import tell
from dovetail_ort_runtime.bundle.bundle import VERIFICATIONS, Bundle
from dovetail_ort_runtime.bundle.graph_names import DRAFTER, TARGET
from dovetail_ort_runtime.bundle.hub_cache import HubName
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import AUTO, DEVICES
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.loading.load_options import DRAFTERS, LoadOptions
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions
from dovetail_ort_runtime.text.template_arguments import checked_template_arguments

_DEFAULTS: Final = GenerationOptions()


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the output that other programs read."""
    parser.add_argument("--json", action="store_true", help="print one JSON object for other programs")


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bundle, how the answer is decoded, and how it is shown."""
    add_bundle(parser)
    parser.add_argument("--system", metavar="TEXT", help="put this system message before the conversation")
    add_template_arguments(parser)
    _add_limits(parser)
    _add_sampling(parser)
    add_speculation(parser)
    add_verification(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--show-drafted", action="store_true", help="colour accepted draft tokens on a terminal")
    output.add_argument("--quiet", action="store_true", help="print only errors on standard error")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the bundle that is opened."""
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        help="a directory that `dovetail-ort export` wrote, or the name owner/name[@revision] of a bundle that "
        "`dovetail-ort pull` downloaded",
    )


def add_graph_choice(parser: argparse.ArgumentParser) -> None:
    """Add which of a bundle's graphs is meant."""
    parser.add_argument(
        "--graph",
        choices=(TARGET, DRAFTER),
        default=TARGET,
        help="which graph of the bundle to use (default: %(default)s)",
    )


def add_template_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the values that the chat template gets together with the messages."""
    parser.add_argument(
        "--template-argument",
        action="append",
        dest="template_arguments",
        type=_template_argument,
        metavar="NAME=VALUE",
        default=[],
        help="give the chat template a value, such as enable_thinking=false. VALUE is JSON; any other text is a "
        "string. May be given several times",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        default=_DEFAULTS.max_new_tokens,
        help="largest number of tokens of the answer (default: %(default)s)",
    )
    limits.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        default=[],
        help="end the answer before this text; a special token is found by its spelling. May be given several times",
    )
    add_max_context(limits)
    add_threads(limits)


def add_max_context(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the largest number of tokens of prompt and answer."""
    parser.add_argument(
        "--max-context",
        type=int,
        metavar="N",
        help="largest number of tokens of prompt and answer together (default: the bundle's maximum)",
    )


def add_threads(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the number of threads of a forward."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="number of threads that one forward uses (default: the usable physical cores)",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_argument_group("sampling", "Options that are not given keep the bundle's own settings.")
    sampling.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="divide the logits by T; 0 always takes the most likely token",
    )
    sampling.add_argument("--top-k", type=int, metavar="K", help="keep the K most likely tokens; 0 keeps all")
    sampling.add_argument(
        "--top-p", type=float, metavar="P", help="keep the most likely tokens until their probabilities add up to P"
    )
    sampling.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="drop tokens that are less likely than P times the most likely one",
    )
    sampling.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="make tokens that were seen before less likely, with R above 1",
    )
    sampling.add_argument("--seed", type=int, metavar="N", help="start of the random numbers, for repeatable answers")


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """Add what drafts, and how much."""
    speculation = parser.add_argument_group("speculation")
    speculation.add_argument(
        "--drafter",
        choices=DRAFTERS,
        default=DRAFTERS[0],
        help="who proposes tokens: dgf is the bundle's own head, lm a smaller model, lookup copies from the text. "
        "auto uses lookup, and a model if there is one, whichever pays more (default: %(default)s)",
    )
    add_draft_bundle(speculation)
    speculation.add_argument(
        "--drafter-device",
        choices=DEVICES,
        default=DEVICES[0],
        help="device of the model that drafts. auto uses CUDA for a head in fp16 if CUDA works (default: %(default)s)",
    )
    speculation.add_argument(
        "--target-layers-on-gpu",
        type=layers_or_auto,
        default=AUTO,
        metavar="N",
        help="number of the target's first blocks on a GPU: 0, or the number that was exported with --gpu-layers. "
        "auto uses CUDA for them if it works (default: %(default)s)",
    )
    speculation.add_argument(
        "--vram-limit", metavar="SIZE", help="GPU memory that target and drafter may use together, such as 3GB"
    )
    shape = speculation.add_mutually_exclusive_group()
    shape.add_argument(
        "--chain",
        type=_chain_shape,
        dest="draft_shape",
        metavar="K",
        help="let the model always draft K tokens, instead of what pays best in each round",
    )
    shape.add_argument(
        "--tree",
        type=_tree_shape,
        dest="draft_shape",
        metavar="T/D/K",
        help="let the model always draft a tree of T rows, D expansions and K candidates. Trees pay only with native "
        "bundles",
    )
    speculation.add_argument(
        "--max-draft-tokens",
        type=int,
        metavar="N",
        default=_DEFAULTS.max_draft_tokens,
        help="largest number of draft tokens in a round; 0 decodes without speculation (default: %(default)s)",
    )


def add_draft_bundle(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the bundle of the drafter `lm`."""
    parser.add_argument(
        "--draft-bundle", metavar="DIR", help="bundle of a smaller model with the same tokenizer, for the drafter lm"
    )


def add_verification(parser: argparse.ArgumentParser) -> None:
    """Add which of the bundle's files are hashed."""
    parser.add_argument(
        "--verify",
        choices=VERIFICATIONS,
        default=VERIFICATIONS[0],
        help="which files to check against the manifest's checksums: small is every file up to 16 MiB "
        "(default: %(default)s)",
    )


def layers_or_auto(text: str) -> int | str:
    """A number of blocks, or `auto`; how many blocks the model has is not known yet."""
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be {AUTO} or a number, got {text!r}") from error


def _template_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE such as enable_thinking=false, got {text!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def template_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Template arguments by name, checked before a bundle is opened; of one name the last value counts."""
    return checked_template_arguments(dict(arguments.template_arguments))


def hub_name(text: str) -> HubName:
    """The model on the hub that an argument names.

    Raises:
        InputError: the text is no such name.
    """
    name = HubName.parse(text)
    if name is None:
        raise InputError(f"a model on the hub must be named as owner/name or owner/name@revision, got {text!r}")
    return name


def _chain_shape(text: str) -> ChainShape:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number of 1 or more, got {text!r}")
    return ChainShape.fixed(int(text))


def _tree_shape(text: str) -> TreeShape:
    try:
        num_rows, num_expansions, width = map(int, text.split("/"))
        return TreeShape(num_rows=num_rows, num_expansions=num_expansions, width=width)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be three numbers such as 7/4/10, got {text!r} ({error})") from error


def load_options(arguments: argparse.Namespace, *, tune: bool = False) -> LoadOptions:
    """How the model is loaded, by the settings that the command has."""
    names = {field.name for field in fields(LoadOptions)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return LoadOptions(**given, tune=tune)


def open_model(arguments: argparse.Namespace) -> tuple[Model, GenerationOptions]:
    """The model and the options of its answers. All options are checked before the weights are loaded."""
    loading = load_options(arguments)
    bundle = Bundle(arguments.bundle, arguments.verify)
    given = {field.name: getattr(arguments, field.name) for field in fields(SamplingOptions)}
    sampling = {name: value for name, value in given.items() if value is not None}
    options = GenerationOptions(
        max_new_tokens=arguments.max_new_tokens,
        stop=tuple(arguments.stop),
        sampling=replace(bundle.manifest.generation.sampling(), **sampling),
        max_draft_tokens=arguments.max_draft_tokens,
    )
    if sys.stderr.isatty() and not arguments.quiet:
        tell(f"loading {arguments.bundle}")
    return Model(bundle, loading), options
