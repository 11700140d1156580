"""Inputs of native operators made of a fuzzer's bytes: a call is refused in words, or means the same in any order."""

from __future__ import annotations

import functools
from typing import Any

import atheris
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from dovetail_ort_runtime import kernels

HEADS, KV_HEADS, SIZE, SLOTS, POSITIONS = 4, 2, 16, 128, 96
RANKS = {"qkv": 3, "past_key": 5, "past_value": 4, "lengths": 1, "sequence_ids": 1, "slots": 1, "ancestors": 2}
RANKS |= {"position_ids": 2, "cos": 2, "sin": 2}
OUTPUT_RANKS = {"context": 3, "present_key": 5, "present_value": 4}
BY_ROW = ("sequence_ids", "slots", "ancestors")


def operators(data: bytes) -> None:
    """One call of Attention: the rows of a chain or a tree, some of their integers changed, and any values."""
    provider = atheris.FuzzedDataProvider(data)
    session = _session(provider.ConsumeIntInRange(0, 40), provider.ConsumeBool())
    inputs = _rows(provider)
    for _ in range(provider.ConsumeIntInRange(0, 3)):
        _change(provider, inputs[provider.PickValueInList(["lengths", *BY_ROW, "position_ids"])])
    rows = len(inputs["slots"])
    inputs["qkv"] = _numbers(provider, (1, rows, (HEADS + 2 * KV_HEADS) * SIZE))
    first = _run(session, inputs)
    backwards = {name: value[::-1] if name in BY_ROW else value for name, value in inputs.items()}
    backwards |= {name: inputs[name][:, ::-1] for name in ("qkv", "position_ids")}
    second = _run(session, backwards)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        np.testing.assert_array_equal(first[0], second[0][:, ::-1])
        np.testing.assert_array_equal(first[1], second[1])


def _rows(provider: Any) -> dict[str, np.ndarray]:
    """Rows of one or two sequences, which no operator refuses."""
    sequences = provider.ConsumeIntInRange(1, 2)
    lengths = [provider.ConsumeIntInRange(0, SLOTS - 16) for _ in range(sequences)]
    is_tree = provider.ConsumeBool()
    sequence_ids, slots, paths = [], [], []
    for sequence in range(sequences):
        own: list[list[int]] = []
        for row in range(provider.ConsumeIntInRange(0, 6)):
            parent = provider.ConsumeIntInRange(-1, row - 1) if is_tree else row - 1
            slot = lengths[sequence] + row
            own.append([*own[parent], slot] if parent >= 0 else [slot])
            sequence_ids.append(sequence)
            slots.append(slot)
        paths += own
    depth = max(map(len, paths), default=1) if is_tree else 0
    ancestors = np.full((len(slots), depth), -1, np.int64)
    for row, path in enumerate(paths):
        if is_tree:
            ancestors[row, : len(path) - 1] = path[:-1]
    return {
        "lengths": np.array(lengths, np.int64),
        "sequence_ids": np.array(sequence_ids, np.int64),
        "slots": np.array(slots, np.int64),
        "ancestors": ancestors,
        "position_ids": np.array([slots], np.int64) % POSITIONS,
        "cos": np.ones((POSITIONS, SIZE // 2), np.float32),
        "sin": np.zeros((POSITIONS, SIZE // 2), np.float32),
    }


def _change(provider: Any, values: np.ndarray) -> None:
    """Another integer at one place: a small one, or any."""
    if values.size:
        place = provider.ConsumeIntInRange(0, values.size - 1)
        values.flat[place] = provider.ConsumeInt(8) if provider.ConsumeBool() else provider.ConsumeIntInRange(-1, SLOTS)


def _numbers(provider: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Floats of any bits, repeated to fill the shape."""
    content = provider.ConsumeBytes(4 * provider.ConsumeIntInRange(1, 40))
    found = np.frombuffer(content[: len(content) // 4 * 4], np.float32)
    return np.resize(found if len(found) else np.ones(1, np.float32), shape)


def _run(session: Any, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """The context and the keys, or None where the operator refuses in one line."""
    sequences = len(inputs["lengths"])
    keys = np.ones((sequences, KV_HEADS, SLOTS // 64, SIZE, 64), np.float16)
    values = np.ones((sequences, KV_HEADS, SLOTS, SIZE), np.float16)
    binding = session.io_binding()
    binding.bind_output("context")
    held = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
    for name, array in (("key", keys), ("value", values)):
        held[f"past_{name}"] = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_output(f"present_{name}", held[f"past_{name}"])
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        words = str(error).partition("Status Message: ")[2]
        if " must " in words and "\n" not in words:
            return None
        raise
    return binding.get_outputs()[0].numpy().copy(), keys


@functools.cache
def _session(window: int, is_capped: bool) -> Any:
    attributes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "scale": 0.25, "window": window}
    attributes["soft_cap"] = 10.0 if is_capped else 0.0
    node = helper.make_node("Attention", list(RANKS), list(OUTPUT_RANKS), domain=kernels.OPERATOR_DOMAIN, **attributes)
    integers = dict.fromkeys(("lengths", "sequence_ids", "slots", "ancestors", "position_ids"), TensorProto.INT64)
    halves = dict.fromkeys(("past_key", "past_value", "present_key", "present_value"), TensorProto.FLOAT16)
    types = integers | halves
    inputs, outputs = (
        [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), [None] * rank) for name, rank in side]
        for side in (RANKS.items(), OUTPUT_RANKS.items())
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(kernels.OPERATOR_DOMAIN, kernels.OPERATOR_VERSION)]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    kernels.register(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
