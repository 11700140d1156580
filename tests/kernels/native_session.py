"""A small graph of all native operators: an embedding, attention, gate and head, in one session.

Run as a program, it does what its first argument names and prints what it found, in a process of its own.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from dovetail_ort_runtime import kernels

WIDTH, HEADS, KV_HEADS, HEAD_SIZE, SLOTS, VOCABULARY = 64, 4, 2, 16, 1024, 96


def packed(generator, outputs, inputs):
    """Codes and scales of a random weight whose inputs are a multiple of 64, packed."""
    codes = generator.integers(1, 256, (-(-outputs // 32), inputs // 4, 32, 4)).astype(np.uint8)
    return codes, np.full(outputs, 0.02, np.float32)


def make_model():
    """The graph, with random weights of a fixed seed; the head reads the embedding's weight."""
    generator = np.random.default_rng(0)
    constants = {
        "norm": np.ones(WIDTH, np.float32),
        "cos": np.ones((SLOTS, HEAD_SIZE // 2), np.float32),
        "sin": np.zeros((SLOTS, HEAD_SIZE // 2), np.float32),
    }
    sizes = {
        "words": (VOCABULARY, WIDTH),
        "qkv": (128, WIDTH),
        "out": (WIDTH, WIDTH),
        "up": (256, WIDTH),
        "down": (64, 128),
    }
    for name, (outputs, inputs) in sizes.items():
        constants[f"{name}_codes"], constants[f"{name}_scales"] = packed(generator, outputs, inputs)
    past, present = ("past_key", "past_value"), ("present_key", "present_value")

    def node(operator, inputs, outputs, /, **attributes):
        """A node; `-` stands for an input that is left out."""
        names = ["" if name == "-" else name for name in inputs.split()]
        made = helper.make_node(operator, names, outputs.split(), domain=kernels.OPERATOR_DOMAIN)
        made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        return made

    attention = "qkv past_key past_value lengths sequence_ids slots ancestors position_ids cos sin"
    normed = {"inputs": WIDTH, "block": 64, "epsilon": 1e-5}
    nodes = [
        node("Embedding", "input_ids words_codes words_scales", "x", inputs=WIDTH),
        node("NormProduct", "x norm qkv_codes qkv_scales", "qkv", **normed),
        node("Attention", attention, "a present_key present_value", num_heads=HEADS, kv_num_heads=KV_HEADS, scale=0.25),
        node("Product", "a out_codes out_scales", "o", inputs=WIDTH, block=64),
        node("NormProduct", "o norm up_codes up_scales - x", "u s", **normed),
        node("GatedProduct", "u down_codes down_scales", "d", inputs=128, block=64, activation="silu"),
        node("Norm", "d norm s", "n", epsilon=1e-5),
        node("Product", "n words_codes words_scales", "logits", inputs=WIDTH, block=32),
    ]
    ranks = {"input_ids": 2, "lengths": 1, "sequence_ids": 1, "slots": 1, "ancestors": 2, "position_ids": 2}
    half, caches = TensorProto.FLOAT16, {"key": 5, "value": 4}
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [info(name, TensorProto.INT64, [None] * rank) for name, rank in ranks.items()]
        + [info(name, half, [None] * rank) for name, rank in zip(past, caches.values(), strict=True)],
        [info("logits", TensorProto.FLOAT, None)]
        + [info(name, half, [None] * rank) for name, rank in zip(present, caches.values(), strict=True)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(kernels.OPERATOR_DOMAIN, kernels.OPERATOR_VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def open_model(model=None, threads=2):
    """A session of the graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    kernels.register(options)
    return ort.InferenceSession(model or make_model(), options, providers=["CPUExecutionProvider"])


class Sequence:
    """One sequence with its own cache."""

    def __init__(self, session):
        self.session = session
        self.length = 0
        shapes = {"key": (1, KV_HEADS, SLOTS // 64, HEAD_SIZE, 64), "value": (1, KV_HEADS, SLOTS, HEAD_SIZE)}
        self.caches = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float16)) for name, shape in shapes.items()
        }

    def forward(self, ids, *, keep=True):
        """Logits (S, V) of a chain of tokens after those that were kept."""
        slots = np.arange(self.length, self.length + len(ids))
        feeds = {
            "input_ids": np.asarray([ids]),
            "lengths": np.array([self.length]),
            "sequence_ids": np.zeros(len(ids), np.int64),
            "slots": slots,
            "ancestors": np.zeros((len(ids), 0), np.int64),
            "position_ids": slots[None],
        }
        binding = self.session.io_binding()
        binding.bind_output("logits")  # the first one, which is returned
        held = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items()}
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self.caches.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        self.session.run_with_iobinding(binding)
        if keep:
            self.length += len(ids)
        return binding.get_outputs()[0].numpy()[0].copy()


def resident_bytes():
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def reopened(times):
    """Resident bytes after a tenth of the times that a session was opened, used and closed, and after all."""
    model, found = make_model(), []
    for index in range(times):
        Sequence(open_model(model)).forward(list(range(20)))
        if index + 1 in (times // 10, times):
            gc.collect()
            found.append(resident_bytes())
    return found


def library_addresses():
    """Where the library lies in this process."""
    lines = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(kernels.library_path()))
    ]
    ends = [[int(end, 16) for end in re.match(r"(\w+)-(\w+)", line).groups()] for line in lines]
    return min(start for start, _ in ends), max(end for _, end in ends)


def counted_allocations():
    """Allocations of the library in the first forward of a size and in fifty later ones."""
    counter = ctypes.CDLL(None)
    counter.count_allocations_between.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    counter.allocations.restype = ctypes.c_long
    sequence = Sequence(open_model(threads=1))
    counter.count_allocations_between(*library_addresses())
    sequence.forward(list(range(24)), keep=False)
    first = counter.allocations()
    counter.count_allocations_between(*library_addresses())
    for _ in range(50):
        sequence.forward(list(range(24)), keep=False)
    return [first, counter.allocations()]


def mapped_libraries():
    """Paths of all files of kernels that this process has mapped, after a forward."""
    Sequence(open_model()).forward([1, 2, 3])
    paths = {
        line.split(maxsplit=5)[5]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "dovetail_kernels" in line
    }
    return sorted(paths)


if __name__ == "__main__":
    results = {"reopened": lambda: reopened(200), "counted": counted_allocations, "mapped": mapped_libraries}
    print(json.dumps(results[sys.argv[1]]()))
