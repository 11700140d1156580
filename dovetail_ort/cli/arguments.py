"""Arguments of the commands that open a bundle, and the model and options that they ask for."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from typing import Any, Final

from dovetail_ort_runtime.bundle.bundle import VERIFICATIONS, Bundle
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import AUTO, DEVICES
from dovetail_ort_runtime.loading.load_options import DRAFTERS, LoadOptions
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions
from dovetail_ort_runtime.text.template_arguments import checked_template_arguments

_DEFAULTS: Final = GenerationOptions()


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bundle, how the answer is decoded, and how it is shown."""
    add_bundle(parser)
    parser.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    add_template_arguments(parser)
    _add_limits(parser)
    _add_sampling(parser)
    add_speculation(parser)
    add_verification(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--show-drafted", action="store_true", help="tint accepted draft tokens on a terminal")
    output.add_argument("--quiet", action="store_true", help="nothing on standard error but errors")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the bundle that is opened."""
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        help="directory that `dovetail-ort export` wrote, or owner/name[@revision] that `dovetail-ort pull` fetched",
    )


def add_template_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the chat template is given beside the messages."""
    parser.add_argument(
        "--template-argument",
        action="append",
        dest="template_arguments",
        type=_template_argument,
        metavar="NAME=VALUE",
        default=[],
        help="a switch of the chat template, such as enable_thinking=false; VALUE is JSON, or else a string; "
        "may be given several times",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        default=_DEFAULTS.max_new_tokens,
        help="longest answer (default: %(default)s)",
    )
    limits.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        default=[],
        help="end the answer before this text, or at a special token that is spelt so; may be given several times",
    )
    limits.add_argument(
        "--max-context", type=int, metavar="N", help="tokens of prompt and answer (default: the bundle's maximum)"
    )
    add_threads(limits)


def add_threads(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the threads of a forward."""
    parser.add_argument("--threads", type=int, metavar="N", help="of one forward (default: the usable physical cores)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_argument_group("sampling", "what is not given is as the bundle's own settings say")
    sampling.add_argument("--temperature", type=float, metavar="T", help="0 takes the most likely token")
    sampling.add_argument("--top-k", type=int, metavar="K", help="keep the K most likely tokens; 0 keeps all")
    sampling.add_argument("--top-p", type=float, metavar="P", help="keep the most likely tokens up to mass P")
    sampling.add_argument("--min-p", type=float, metavar="P", help="drop tokens below P times the likeliest")
    sampling.add_argument(
        "--repetition-penalty", type=float, metavar="R", help="above 1 discourages tokens seen before"
    )
    sampling.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """Add what drafts, and how much."""
    speculation = parser.add_argument_group("speculation")
    speculation.add_argument(
        "--drafter",
        choices=DRAFTERS,
        default=DRAFTERS[0],
        help="dgf: the bundle's own; lm: a smaller model; lookup: the text itself; auto: lookup and a model, "
        "if there is one, as each pays (default: %(default)s)",
    )
    add_draft_bundle(speculation)
    speculation.add_argument(
        "--drafter-device",
        choices=DEVICES,
        default=DEVICES[0],
        help="where a model drafts; auto takes CUDA for a drafter in fp16 if it can be used (default: %(default)s)",
    )
    speculation.add_argument(
        "--target-layers-on-gpu",
        type=layers_or_auto,
        default=AUTO,
        metavar="N",
        help="0, or the number that the bundle was exported for with --gpu-layers; auto takes CUDA for these "
        "if it can be used (default: %(default)s)",
    )
    speculation.add_argument("--vram-limit", metavar="SIZE", help="what both may take on a GPU, such as 3GB")
    shape = speculation.add_mutually_exclusive_group()
    shape.add_argument(
        "--chain",
        type=_chain_shape,
        dest="draft_shape",
        metavar="K",
        help="always let the model draft K tokens, instead of what pays best in each round",
    )
    shape.add_argument(
        "--tree",
        type=_tree_shape,
        dest="draft_shape",
        metavar="T/D/K",
        help="always let it draft a tree of T rows, D expansions and K candidates; pays with a native bundle only",
    )
    speculation.add_argument(
        "--max-draft-tokens",
        type=int,
        metavar="N",
        default=_DEFAULTS.max_draft_tokens,
        help="draft tokens a round at most; 0 decodes without speculation (default: %(default)s)",
    )


def add_draft_bundle(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the bundle of the drafter `lm`."""
    parser.add_argument(
        "--draft-bundle", metavar="DIR", help="bundle of the smaller model, which has the same tokenizer"
    )


def add_verification(parser: argparse.ArgumentParser) -> None:
    """Add which of the bundle's files are hashed."""
    parser.add_argument(
        "--verify",
        choices=VERIFICATIONS,
        default=VERIFICATIONS[0],
        help="files whose checksum is compared with the manifest's: those up to 16 MiB, all or none "
        "(default: %(default)s)",
    )


def layers_or_auto(text: str) -> int | str:
    """A number of blocks, or `auto`; whether the model has so many is not known yet."""
    try:
        return text if text == AUTO else int(text)
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
    """Template arguments by name, the last one of each; checked before a bundle is opened."""
    return checked_template_arguments(dict(arguments.template_arguments))


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
    """The model and the options of every answer, all of them checked before the weights are loaded."""
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
        print(f"loading {arguments.bundle}", file=sys.stderr)
    return Model(bundle, loading), options
