"""`dovetail-ort serve`: a bundle behind an OpenAI-compatible HTTP server with a chat page."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dovetail_ort.cli.arguments import (
    add_bundle,
    add_max_context,
    add_speculation,
    add_threads,
    add_verification,
    load_options,
)
from dovetail_ort.cli.terminal import tell
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError, UnavailableError
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.options import GenerationOptions
from dovetail_ort_runtime.text.user_text import read_text_file

if TYPE_CHECKING:
    from dovetail_ort.server import ServerSettings

_NEEDED: Final = ("llguidance", "prometheus_client", "starlette", "uvicorn")
_USUAL_TOKENS: Final = 2048
# Connections beside those of waiting requests, for idle browsers and for refusals while the queue is full.
_SPARE_CONNECTIONS: Final = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Ctrl-C lets accepted requests finish; a second Ctrl-C ends the server at once. The chat page is at /, and\n"
        "metrics for Prometheus are at /metrics. Requests without sampling settings use those of the bundle.\n\n"
        "examples:\n"
        "  dovetail-ort serve smollm2\n"
        "  dovetail-ort serve smollm2 --host 0.0.0.0 --api-key-file key.txt --allowed-host chat.example.org"
    )
    add_bundle(parser)
    parser.add_argument(
        "--model-name", metavar="NAME", help="name of the model in requests (default: name of its source)"
    )
    parser.add_argument("--quiet", action="store_true", help="print only errors on standard error")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse requests with unknown fields, instead of naming the fields in a header",
    )
    _add_access(parser)
    _add_limits(parser)
    add_speculation(parser)
    add_verification(parser)


def _add_access(parser: argparse.ArgumentParser) -> None:
    access = parser.add_argument_group("access")
    access.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    access.add_argument(
        "--port",
        type=int,
        metavar="N",
        default=8000,
        help="port to listen on; 0 takes a free one (default: %(default)s)",
    )
    access.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="file whose first line is the key that requests must have (default: no key)",
    )
    access.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        default=[],
        help="host name that requests may use, in addition to localhost and IP addresses. May be given several times",
    )
    access.add_argument(
        "--trusted-proxy",
        metavar="ADDRESS",
        help="address of a reverse proxy whose X-Forwarded-For header names the client",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help=f"largest number of tokens of an answer (default: what the context holds, and {_USUAL_TOKENS} for "
        "requests that name no number)",
    )
    limits.add_argument(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="largest number of tokens of a prompt (default: what the context holds)",
    )
    add_max_context(limits)
    limits.add_argument(
        "--max-request-bytes",
        type=int,
        metavar="N",
        default=1 << 20,
        help="largest number of bytes of a request's body (default: %(default)s)",
    )
    limits.add_argument(
        "--max-queue",
        type=int,
        metavar="N",
        default=32,
        help="largest number of requests that wait for an answer (default: %(default)s)",
    )
    limits.add_argument(
        "--time-limit",
        type=float,
        metavar="S",
        default=300.0,
        help="largest number of seconds that an answer may take (default: %(default)g)",
    )
    limits.add_argument(
        "--grace",
        type=float,
        metavar="S",
        default=30.0,
        help="seconds in which accepted requests may finish when the server ends (default: %(default)g)",
    )
    add_threads(limits)


def run(arguments: argparse.Namespace) -> int:
    _check_packages()
    from dovetail_ort.server import make_app
    from dovetail_ort.server.running import bound_socket, make_server

    if not arguments.grace >= 0:
        raise InputError(f"--grace must be 0 or more, got {arguments.grace}")
    options = load_options(arguments)
    bundle = Bundle(arguments.bundle, arguments.verify)
    settings = _settings(arguments, bundle)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    # Bound first, so that an address in use is reported before the weights are loaded.
    with bound_socket(arguments.host, arguments.port) as bound, Model(bundle, options) as model:
        server = make_server(
            make_app(model, settings),
            grace_seconds=arguments.grace,
            max_connections=settings.max_queue + _SPARE_CONNECTIONS,
            trusted_proxy=arguments.trusted_proxy,
            on_start=lambda: None if arguments.quiet else _tell_address(settings, bound.getsockname()),
        )
        server.run(sockets=[bound])
    return 0


def _settings(arguments: argparse.Namespace, bundle: Bundle) -> ServerSettings:
    from dovetail_ort.server import ServerSettings

    return ServerSettings(
        # Only the last part of the source, because a path would reveal something about this machine.
        model_name=arguments.model_name or Path(bundle.manifest.provenance.source).name.removesuffix(".gguf"),
        answer=GenerationOptions(
            max_new_tokens=_USUAL_TOKENS if arguments.max_new_tokens is None else arguments.max_new_tokens,
            max_draft_tokens=arguments.max_draft_tokens,
        ),
        api_key=None if arguments.api_key_file is None else _first_line(arguments.api_key_file),
        allowed_hosts=("localhost", *(name.lower() for name in (arguments.host, *arguments.allowed_host))),
        max_queue=arguments.max_queue,
        max_new_tokens=arguments.max_new_tokens,
        max_prompt_tokens=arguments.max_prompt_tokens,
        max_request_bytes=arguments.max_request_bytes,
        time_limit_seconds=arguments.time_limit,
        strict=arguments.strict,
    )


def _check_packages() -> None:
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise UnavailableError(
            f"serve needs the packages of its extra, and these are missing: {', '.join(absent)}; "
            'run: pip install "dovetail-ort[server]"'
        )


def _first_line(path: Path) -> str:
    return read_text_file(path, "the file of --api-key-file").partition("\n")[0].strip()


def _tell_address(settings: ServerSettings, address: tuple[str, int]) -> None:
    host, port = address[:2]
    place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    tell(f"serving {settings.model_name} at {place}, with OpenAI's API at {place}/v1; Ctrl-C ends the server")
    if settings.api_key is None and not ipaddress.ip_address(host).is_loopback:
        tell("everybody who can reach this machine can ask for answers; to change that, see --api-key-file")
