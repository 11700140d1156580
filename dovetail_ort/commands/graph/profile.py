"""`dovetail-ort graph profile`: where the time of a forward goes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail_ort.cli.arguments import add_bundle, add_graph_choice, add_json, add_threads
from dovetail_ort.cli.export_extra import export_packages
from dovetail_ort_runtime.bundle.bundle import Bundle

if TYPE_CHECKING:
    from dovetail_ort_export.laboratory.profile import ForwardProfile, GraphProfile, Share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  dovetail-ort graph profile smollm2 --tokens 1,6 --past 256 --trace trace.json\n\n"
        "The trace opens in https://ui.perfetto.dev."
    )
    add_bundle(parser)
    add_graph_choice(parser)
    parser.add_argument(
        "--tokens",
        type=_sizes,
        default=(1, 6),
        metavar="N,N",
        help="numbers of rows of a forward, 1 or more (default: 1,6)",
    )
    parser.add_argument(
        "--past", type=int, default=256, metavar="N", help="number of tokens of context (default: %(default)s)"
    )
    add_threads(parser)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write ONNX Runtime's own profile into this file")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    bundle = Bundle(arguments.bundle)
    with export_packages("profile", with_torch=False):
        from dovetail_ort_export.laboratory.profile import profile_graph

    profile = profile_graph(
        bundle,
        arguments.graph,
        rows=arguments.tokens,
        num_past=arguments.past,
        threads=arguments.threads,
        trace=arguments.trace,
    )
    print(json.dumps(_as_json(profile), indent=2) if arguments.json else "\n".join(_lines(profile)))
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 1,6, got {text!r}") from None


def _lines(profile: GraphProfile) -> Iterator[str]:
    yield (
        f"{profile.graph} on {profile.machine}, {profile.threads} threads, with {profile.num_past} tokens of context; "
        f"this machine reads {profile.read_bandwidth / 1e9:.1f} GB/s from memory"
    )
    for one in profile.forwards:
        yield from ("", _headline(one, profile.read_bandwidth))
        yield from _table("operator", one.operators, one, profile.read_bandwidth)
        between = one.forward_ms - one.kernel_ms
        yield f"{'between kernels, less profiling':<32} {'':>5} {between:>8.3f} {between / one.forward_ms:>7.1%}"
        yield ""
        yield from _table("block", one.blocks, one, profile.read_bandwidth)


def _headline(one: ForwardProfile, bandwidth: float) -> str:
    return (
        f"{one.rows} row{'s' * (one.rows > 1)}: {one.forward_ms:.2f} ms a forward "
        f"({one.profiled_ms:.2f} under the profiler), "
        f"{one.bytes_read / 1e6:.1f} MB read at {one.bytes_per_second / 1e9:.1f} GB/s, "
        f"{one.bytes_per_second / bandwidth:.0%} of what the machine reads; "
        f"at least {one.overhead:.1%} is neither product nor attention"
    )


def _table(title: str, shares: Sequence[Share], one: ForwardProfile, bandwidth: float) -> Iterator[str]:
    yield f"{title:<32} {'nodes':>5} {'ms':>8} {'share':>7} {'MB':>8} {'GB/s':>6} {'of max':>6}"
    for share in shares:
        line = f"{share.name:<32} {share.num_nodes:>5} {share.kernel_ms:>8.3f} {share.kernel_ms / one.forward_ms:>7.1%}"
        if share.bytes_read >= 100_000:
            rate = share.bytes_per_second
            line += f" {share.bytes_read / 1e6:>8.1f} {rate / 1e9:>6.1f} {rate / bandwidth:>6.0%}"
        yield line


def _as_json(profile: GraphProfile) -> dict[str, Any]:
    record = dataclasses.asdict(profile)
    for one, measured in zip(record["forwards"], profile.forwards, strict=True):
        one["bytes_read"] = measured.bytes_read
        one["bytes_per_second"] = measured.bytes_per_second
        one["neither_product_nor_attention"] = measured.overhead
        for kind in ("operators", "blocks"):
            for share, found in zip(one[kind], getattr(measured, kind), strict=True):
                share["bytes_per_second"] = found.bytes_per_second
    return record
