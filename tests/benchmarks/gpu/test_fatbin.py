"""Machine code of other GPUs, cleared in a library that is made here byte by byte."""

from __future__ import annotations

import struct

import pytest

from benchmarks.gpu.fatbin import images, prune

USED = b"\x7fELF .text.flash_fwd_half\0"
UNUSED = b"\x7fELF .text.MoeFCGemm_kernel\0"
# With a name beside it that is used.
MIXED = b"\x7fELF .text.MoeFCGemm_kernel\0.text.softmax\0"


def entry(kind, architecture, code, packed=0, header=64):
    """Header and image; what is said to be packed is not, as the tests' own function unpacks nothing."""
    fields = bytearray(header)
    struct.pack_into("<HHIQ", fields, 0, kind, 0x101, header, len(code))
    struct.pack_into("<I", fields, 16, packed)
    struct.pack_into("<I", fields, 28, architecture)
    struct.pack_into("<Q", fields, 56, packed)
    return bytes(fields) + code


def container(*entries):
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(path, *containers):
    """An ELF file with one section of containers, zeros between them."""
    names = b"\0.nv_fatbin\0.names\0"
    code = b"\0\0\0\0\0\0\0\0".join(containers)
    start, strings = 64, 64 + len(code)
    table = strings + len(names)
    head = bytearray(64)
    struct.pack_into("<Q", head, 0x28, table)
    struct.pack_into("<HHH", head, 0x3A, 64, 2, 1)
    sections = [(1, start, len(code)), (12, strings, len(names))]
    rows = [struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 0, 0) for name, at, size in sections]
    path.write_bytes(bytes(head) + code + names + b"".join(rows))
    return path


def unchanged(packed, size):
    return packed


def pruned(tmp_path, *containers, **options):
    """Images before and after, and the file after."""
    path = library(tmp_path / "library.so", *containers)
    before = list(images(path.read_bytes()))
    found = prune(path, tmp_path / "out.so", 90, unchanged, **options)
    data = (tmp_path / "out.so").read_bytes()
    assert len(data) == path.stat().st_size
    return before, [data[image.start : image.start + image.size] for image in images(data)], found


def test_the_code_of_one_architecture_stays_and_all_else_is_cleared(tmp_path):
    entries = [entry(2, 80, USED, packed=27), entry(2, 90, USED, packed=27), entry(1, 90, b"ptx of ninety")]
    before, after, found = pruned(tmp_path, container(*entries))
    assert [(image.kind, image.architecture) for image in before] == [(2, 80), (2, 90), (1, 90)]
    assert after == [bytes(len(USED)), USED, bytes(13)]
    assert (found.num_kept, found.kept_bytes, found.num_unused) == (1, len(USED), 0)


def test_an_image_whose_kernels_no_graph_runs_becomes_the_smallest_image_of_that_architecture(tmp_path):
    containers = [
        container(entry(2, 90, USED, packed=len(USED))),
        container(entry(2, 90, UNUSED, packed=len(UNUSED))),
        container(entry(2, 90, MIXED, packed=len(MIXED))),
    ]
    _, after, found = pruned(tmp_path, *containers)
    assert after == [USED, USED.ljust(len(UNUSED), b"\0"), MIXED]
    assert (found.num_kept, found.num_unused) == (2, 1)
    data = (tmp_path / "out.so").read_bytes()
    # Whoever opens it unpacks as many bytes as the smallest image has.
    assert [image.packed_size for image in images(data)] == [len(USED), len(USED), len(MIXED)]


def test_all_kernels_of_the_architecture_can_be_kept(tmp_path):
    containers = [container(entry(2, 90, USED, packed=27)), container(entry(2, 90, UNUSED, packed=29))]
    _, after, _ = pruned(tmp_path, *containers, all_kernels=True)
    assert after == [USED, UNUSED]


def test_longer_headers_are_stepped_over(tmp_path):
    entries = [entry(2, 120, USED, packed=27, header=112), entry(2, 90, USED, packed=27)]
    before, after, _ = pruned(tmp_path, container(*entries))
    assert [image.start - image.header for image in before] == [112, 64]
    assert after == [bytes(len(USED)), USED]


def test_images_that_do_not_fill_their_container_are_another_format(tmp_path):
    whole = container(entry(2, 90, USED, packed=27))
    shorter = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(whole) - 16 - 8) + whole[16:]
    with pytest.raises(ValueError, match="fill their container"):
        list(images(library(tmp_path / "library.so", shorter).read_bytes()))
