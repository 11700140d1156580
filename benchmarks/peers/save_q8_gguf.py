"""Write a GGUF file again with every matrix in Q8_0: llama.cpp's 8-bit format, 32 weights to a scale.

python -m benchmarks.peers.save_q8_gguf SOURCE OUT
"""

from __future__ import annotations

import sys
from typing import Final

import gguf
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, ReaderField

Q8_0: Final = GGMLQuantizationType.Q8_0
_FILE_TYPE: Final = gguf.Keys.General.FILE_TYPE
# The writer writes these itself.
_WRITTEN: Final = {gguf.Keys.General.ARCHITECTURE, _FILE_TYPE}


def main(source: str, out: str) -> None:
    """Copy the metadata, and the tensors in Q8_0; vectors stay as they are."""
    reader = GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = GGUFWriter(out, arch=architecture)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    for name, field in reader.fields.items():
        if name not in _WRITTEN and not name.startswith("GGUF."):
            _copy(writer, field)
    for tensor in reader.tensors:
        kind = Q8_0 if len(tensor.shape) > 1 else tensor.tensor_type
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        data = tensor.data if kind == tensor.tensor_type else gguf.quants.quantize(weights, kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy(writer: GGUFWriter, field: ReaderField) -> None:
    kind = field.types[0]
    items = field.types[-1] if kind == GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, items)


if __name__ == "__main__":
    main(*sys.argv[1:])
