"""The machine code in a CUDA library. What one GPU does not run is cleared, so that its archive is small.

Headers and the size of the file stay. If a cleared kernel is launched, the result is an error, "no kernel image" or
"invalid device function", never a wrong number. The layout is what `cuobjdump` lists: a container
is a header of magic number, version, header size and size, then entries, each a header of 64 bytes or more and an
image.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECTIONS: Final = (".nv_fatbin", "__nv_relfatbin")
_MAGIC: Final = 0xBA55ED50
_ELF: Final = 2
_LEAST_HEADER: Final = 64
# Kernels that no graph of this project runs: mixtures of experts, products with quantised weights, attention in
# bfloat16 or for old GPUs, quantised caches, convolutions.
_UNUSED: Final = re.compile(
    rb"MoeFCGemm|GroupProblemShape|fpA_intB|GemmUniversal|DqMma|MoeGemm|ClearSplitKSemaphores"
    rb"|flash_fwd.*bfloat16|AttentionKernelIN7cutlass10bfloat16|AttentionKernel.*4arch4Sm[57]"
    rb"|grp\d+_\w*?(fp8|int8|int4)|_bf16\w*kernel_mha|block_scaled_fp4|causal_conv_with_state"
)

Decompress = Callable[[bytes, int], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One entry of a container.

    Attributes:
        kind: 1 for PTX, 2 for machine code.
        architecture: architecture of the GPU, 90 for sm_90 and sm_90a.
        header: offset of the entry's header in the file.
        start: offset of the image, which is after the header.
        size: number of bytes of the image with its padding.
        packed_size: number of compressed bytes, 0 if the image is not compressed.
        unpacked_size: number of bytes after decompression.
    """

    kind: int
    architecture: int
    header: int
    start: int
    size: int
    packed_size: int
    unpacked_size: int

    def is_for(self, architecture: int) -> bool:
        """Whether it is machine code of this architecture."""
        return self.kind == _ELF and self.architecture == architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What `prune` left.

    Attributes:
        num_kept: number of images that stayed.
        kept_bytes: number of bytes of these images.
        num_unused: number of images of the architecture whose kernels no graph of this project runs; they are cleared.
        cleared_bytes: number of bytes of all cleared images.
    """

    num_kept: int
    kept_bytes: int
    num_unused: int
    cleared_bytes: int


def images(data: bytes | bytearray) -> Iterator[Image]:
    """All images of a library for Linux on 64 bits.

    Raises:
        ValueError: the entries of a container do not fill it, so the file has another format.
    """
    for name, start, length in _sections(data):
        if name in SECTIONS:
            for begin, end in _containers(data, start, length):
                yield from _entries(data, begin, end)


def prune(library: Path, out: Path, architecture: int, decompress: Decompress, *, all_kernels: bool = False) -> Pruned:
    """Write a copy of a library with the machine code of one architecture only.

    Args:
        library: file of the library.
        out: file of the copy.
        architecture: architecture that is kept, 90 for an H100.
        decompress: Zstandard; gets packed bytes and the size of the result.
        all_kernels: whether kernels that no graph of this project runs are kept too.
    """
    data = bytearray(library.read_bytes())
    found = list(images(data))
    empty = _smallest(data, [image for image in found if image.is_for(architecture)])
    kept_bytes = 0
    num_kept = 0
    num_unused = 0
    cleared_bytes = 0
    for image in found:
        unused = False
        if image.is_for(architecture):
            unused = not all_kernels and image.size >= len(empty.code) and _is_unused(data, image, decompress)
            if not unused:
                num_kept += 1
                kept_bytes += image.size
                continue
        _replace(data, image, empty if unused else _NOTHING)
        num_unused += unused
        cleared_bytes += image.size
    out.write_bytes(data)
    return Pruned(num_kept=num_kept, kept_bytes=kept_bytes, num_unused=num_unused, cleared_bytes=cleared_bytes)


@dataclass(frozen=True, slots=True)
class _Filling:
    """What replaces an image: a valid image without its kernels."""

    code: bytes
    packed_size: int
    unpacked_size: int


_NOTHING: Final = _Filling(b"", 0, 0)


def _smallest(data: bytearray, found: list[Image]) -> _Filling:
    image = min((image for image in found if image.packed_size), key=lambda image: image.size)
    code = bytes(data[image.start : image.start + image.size])
    return _Filling(code, image.packed_size, image.unpacked_size)


def _replace(data: bytearray, image: Image, filling: _Filling) -> None:
    data[image.start : image.start + image.size] = filling.code.ljust(image.size, b"\0")
    if filling is not _NOTHING:
        struct.pack_into("<I", data, image.header + 16, filling.packed_size)
        struct.pack_into("<Q", data, image.header + 56, filling.unpacked_size)


def _is_unused(data: bytearray, image: Image, decompress: Decompress) -> bool:
    """Whether all kernels of an image are of a kind that no graph of this project runs."""
    code = bytes(data[image.start : image.start + image.size])
    if image.packed_size:
        code = decompress(code[: image.packed_size], image.unpacked_size)
    kernels = set(re.findall(rb"\.text\.([A-Za-z0-9_.$]+)", code))
    return bool(kernels) and all(_UNUSED.search(kernel) for kernel in kernels)


def _sections(data: bytes | bytearray) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each section of an ELF file."""
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, number, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, offset + index * size) for index in range(number)]
    strings = headers[names][4]
    for header in headers:
        start = strings + header[0]
        name = bytes(data[start : data.index(b"\0", start)]).decode()
        yield name, header[4], header[5]


def _containers(data: bytes | bytearray, start: int, length: int) -> Iterator[tuple[int, int]]:
    """Where the entries of each container begin and end."""
    at = start
    end = start + length
    while at + 16 <= end:
        magic, _, header, size = struct.unpack_from("<IHHQ", data, at)
        if magic != _MAGIC:  # padding
            at += 8
            continue
        yield at + header, at + header + size
        at += header + size


def _entries(data: bytes | bytearray, begin: int, end: int) -> Iterator[Image]:
    at = begin
    while at + _LEAST_HEADER <= end:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
        (packed_size,) = struct.unpack_from("<I", data, at + 16)
        (architecture,) = struct.unpack_from("<I", data, at + 28)
        (unpacked_size,) = struct.unpack_from("<Q", data, at + 56)
        yield Image(
            kind=kind,
            architecture=architecture,
            header=at,
            start=at + header,
            size=size,
            packed_size=packed_size,
            unpacked_size=unpacked_size,
        )
        at += header + size
    if at != end:
        raise ValueError(f"the images must fill their container up to {end:#x}, got an end at {at:#x}")
