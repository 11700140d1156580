"""Nodes of Product, GatedProduct, NormProduct, Norm and Embedding with random weights, and what float64 says of them.

Run as a program, it prints a hash of the bits of calls of every kind, for the level that DOVETAIL_KERNELS names.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from dovetail_ort_runtime import kernels

FLOAT = int(TensorProto.FLOAT)
INT64 = int(TensorProto.INT64)

UNIT = 2.0**-24
"""Relative error of one rounding in float32."""

LEAST = np.float32(2.0**-100)
"""A block of activations below this is zero."""


def pack_codes(codes):
    """Codes (N, K) uint8 as kernels.h lays them out: (ceil(N / 32), Kp / 4, 32, 4), filled up with 128."""
    outputs, inputs = codes.shape
    padded = np.full((-(-outputs // 32) * 32, -(-inputs // 64) * 64), 128, np.uint8)
    padded[:outputs, :inputs] = codes
    return np.ascontiguousarray(padded.reshape(len(padded) // 32, 32, -1, 4).transpose(0, 2, 1, 3))


def pack_factors(factors):
    """Factors (N, ceil(K / 64)) float16 as kernels.h lays them out: (ceil(N / 32), Kp / 64, 32), filled up with 1."""
    outputs, groups = factors.shape
    padded = np.ones((-(-outputs // 32) * 32, groups), np.float16)
    padded[:outputs] = factors
    return np.ascontiguousarray(padded.reshape(len(padded) // 32, 32, groups).swapaxes(1, 2))


def pack_nibbles(codes):
    """Codes (N, K) of 0 to 15 as kernels.h lays them out: (ceil(N / 32), Kp / 8, 32, 4) uint8, filled up with 0."""
    outputs, inputs = codes.shape
    padded = np.zeros((-(-outputs // 32) * 32, -(-inputs // 64) * 64), np.uint8)
    padded[:outputs, :inputs] = codes
    halves = padded.reshape(len(padded) // 32, 32, -1, 2, 4)
    return np.ascontiguousarray((halves[:, :, :, 0] | halves[:, :, :, 1] << 4).swapaxes(1, 2))


def pack_steps(steps, minima):
    """Both (N, ceil(K / 32)) float16 as kernels.h lays them out: (ceil(N / 32), Kp / 32, 2, 32), filled up with 0."""
    outputs, groups = steps.shape
    padded = np.zeros((2, -(-outputs // 32) * 32, -(-groups // 2) * 2), np.float16)
    padded[0, :outputs, :groups], padded[1, :outputs, :groups] = steps, minima
    return np.ascontiguousarray(padded.reshape(2, padded.shape[1] // 32, 32, -1).transpose(1, 3, 0, 2))


def random_factors(random, outputs, inputs):
    """Factors (N, ceil(K / 64)) float16 of 2^-14, the smallest normal number, to 1, each power of two as often."""
    factors = 2.0 ** random.uniform(-14, 0, (outputs, -(-inputs // 64)))
    factors[random.random(factors.shape) < 0.25] = 1
    return factors.astype(np.float16)


def factor_of_inputs(factors, inputs):
    """Factors (N, ceil(K / 64)) as (N, K) float32."""
    return np.repeat(factors.astype(np.float32), 64, axis=1)[:, :inputs]


def open_node(name, inputs, outputs, /, *, threads=1, denormal_as_zero=False, **attributes):
    """A session of one node.

    Args:
        name: of the operator.
        inputs: in the node's order: an array is a constant, a type an input of any shape, None is left out.
        outputs: names in the node's order, all float32.
        threads: of the session.
        denormal_as_zero: ONNX Runtime sets its own threads to flush subnormal numbers to zero.
        attributes: of the node.
    """
    names = [f"input_{i}" if value is not None else "" for i, value in enumerate(inputs)]
    axes = {INT64: ["rows"], FLOAT: ["rows", "width"]}
    node = helper.make_node(name, names, list(outputs), domain=kernels.OPERATOR_DOMAIN)
    # One by one: an attribute has the name of make_node's argument.
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(key, value, [f"{key}_{axis}" for axis in axes[value]])
            for key, value in zip(names, inputs, strict=True)
            if isinstance(value, int)
        ],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in outputs],
        [
            numpy_helper.from_array(value, key)
            for key, value in zip(names, inputs, strict=True)
            if isinstance(value, np.ndarray)
        ],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(kernels.OPERATOR_DOMAIN, kernels.OPERATOR_VERSION)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if denormal_as_zero:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    kernels.register(options)
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductCase:
    """One product: what makes its rows, its sizes, and the seed of its weights."""

    kind: str = "plain"
    """plain, silu, gelu_tanh or normed"""
    inputs: int = 64
    outputs: int = 32
    block: int = 64
    has_bias: bool = False
    has_skip: bool = False
    has_groups: bool = False
    bits: int = 8
    """8, or 4 with steps and minima instead of factors; then the block must be 32"""
    epsilon: float = 1e-5
    seed: int = 0

    @property
    def is_gated(self):
        """Whether a row has gate and up."""
        return self.kind in ("silu", "gelu_tanh")

    def weights(self):
        """Codes (N, K) uint8, scales (N,), bias (N,) or None, norm weight (K,)."""
        random = np.random.default_rng(self.seed)
        codes = random.integers(0, 1 << self.bits, (self.outputs, self.inputs)).astype(np.uint8)
        scales = random.uniform(1e-3, 1e-2, self.outputs).astype(np.float32)
        bias = random.standard_normal(self.outputs).astype(np.float32)
        norm_weight = random.standard_normal(self.inputs).astype(np.float32)
        return codes, scales, bias if self.has_bias else None, norm_weight

    def factors(self):
        """Factors (N, ceil(K / 64)) float16, or None."""
        random = np.random.default_rng([self.seed, 2])
        return random_factors(random, self.outputs, self.inputs) if self.has_groups else None

    def steps(self):
        """Steps and minima of 4 bits, both (N, ceil(K / 32)) float16; some steps are negative, zero or subnormal."""
        random = np.random.default_rng([self.seed, 3])
        shape = (2, self.outputs, -(-self.inputs // 32))
        sizes = 2.0 ** random.uniform(-20, 0, shape) * random.choice([-1, 0, 1, 1], shape)
        steps, minima = sizes.astype(np.float16)
        return steps, minima

    def parts(self):
        """Step times code and minimum of every weight, both times its output's scale, (N, K) float64."""
        codes, scales, _, _ = self.weights()
        steps, minima = (np.repeat(part, 32, axis=1)[:, : self.inputs].astype(np.float64) for part in self.steps())
        return codes * steps * scales[:, None], minima * scales[:, None]

    def weight(self):
        """What the packed weight stands for, (N, K) float64."""
        if self.bits == 4:
            return sum(self.parts())
        codes, scales, _, _ = self.weights()
        weight = (codes.astype(np.float64) - 128) * scales[:, None]
        return weight * factor_of_inputs(self.factors(), self.inputs) if self.has_groups else weight

    def rows(self, count, *, seed=1):
        """Inputs x (count, K or 2K) and skip (count, K) or None; the rows differ in size."""
        random = np.random.default_rng([self.seed, seed])
        sizes = 10.0 ** random.uniform(-2, 1, (count, 1))
        x = random.standard_normal((count, self.inputs * (2 if self.is_gated else 1))) * sizes
        skip = random.standard_normal((count, self.inputs)).astype(np.float32)
        return x.astype(np.float32), skip if self.kind == "normed" and self.has_skip else None

    def open(self, *, threads=1, **options):
        """A session of this product; all its outputs."""
        codes, scales, bias, norm_weight = self.weights()
        if self.bits == 4:
            group = 32
            packed = pack_nibbles(codes)
            factors = pack_steps(*self.steps())
        else:
            group = 64 if self.has_groups else 0
            packed = pack_codes(codes)
            factors = pack_factors(self.factors()) if self.has_groups else None
        attributes = {"inputs": self.inputs, "block": self.block, "bits": self.bits, "group": group} | options
        if self.kind == "plain":
            return open_node("Product", [FLOAT, packed, scales, bias, factors], ["y"], threads=threads, **attributes)
        if self.is_gated:
            inputs = [FLOAT, packed, scales, bias, factors]
            return open_node("GatedProduct", inputs, ["y"], threads=threads, activation=self.kind, **attributes)
        inputs = [FLOAT, norm_weight, packed, scales, bias, FLOAT if self.has_skip else None, factors]
        return open_node("NormProduct", inputs, ["y", "sum"], threads=threads, epsilon=self.epsilon, **attributes)


def run(session, *values):
    """The outputs of a session for its inputs in order; None is left out."""
    given = [value for value in values if value is not None]
    return session.run(None, {node.name: value for node, value in zip(session.get_inputs(), given, strict=True)})


def random_case(random, /, **fixed):
    """A case of random kind and sizes, mostly no multiples of a block or a slab."""
    return dataclasses.replace(
        ProductCase(
            kind=str(random.choice(["plain", "silu", "gelu_tanh", "normed"])),
            inputs=int(random.integers(1, 400)),
            outputs=int(random.integers(1, 200)),
            block=int(random.choice([32, 64])),
            has_bias=bool(random.integers(2)),
            has_skip=bool(random.integers(2)),
            has_groups=bool(random.integers(2)),
            seed=int(random.integers(1 << 30)),
        ),
        **fixed,
    )


def quantised(rows, block):
    """The integers (S, Kp) and the scales (S, Kp / block) of rows (S, K) float32, in the float32 steps of kernels.h."""
    count, inputs = rows.shape
    padded = np.zeros((count, -(-inputs // 64) * 64), np.float32)
    padded[:, :inputs] = rows
    blocks = padded.reshape(count, -1, block)
    largest = np.abs(blocks).max(axis=2)
    is_zero = largest < LEAST
    divisor = np.where(is_zero, np.float32(1), largest)
    scales = np.where(is_zero, np.float32(0), largest / np.float32(127))
    integers = np.rint(blocks * (np.float32(127) / divisor)[:, :, None])
    integers[is_zero] = 0
    return integers.reshape(count, -1).astype(np.int64), scales


def product_of_quantised(case, rows):
    """What float64 says of the product of rows (S, K) that the prologue made, and a bound of the error.

    The integers, scales and factors are exact here. The kernel rounds once for each block (an fma), once for the
    output's scale, once for the bias, and with groups once for the scale of the chain; with 4 bits twice for each block
    and for both factors of it. Each rounding is off by at most UNIT of a sum whose magnitude is below that of the
    absolute values.
    """
    _, _, bias, _ = case.weights()
    integers, block_scales = quantised(rows, case.block)
    blocks = integers.reshape(len(rows), -1, case.block) * block_scales[:, :, None].astype(np.float64)
    values = blocks.reshape(len(rows), -1)[:, : case.inputs]
    weight = case.weight()
    offset = 0.0 if bias is None else bias.astype(np.float64)
    result = values @ weight.T + offset
    size = sum(map(np.abs, case.parts())) if case.bits == 4 else np.abs(weight)
    magnitude = np.abs(values) @ size.T + np.abs(offset)
    roundings = block_scales.shape[1] * (2 if case.bits == 4 else 1) + 3 + case.has_groups
    return result, roundings * UNIT * magnitude


def bits_of_cases():
    """A hash of the bits of many calls of all operators."""
    digest = hashlib.sha256()
    random = np.random.default_rng(21)
    for index in range(16):
        case = random_case(random, bits=4, block=32)
        if index % 4 == 3:
            case = dataclasses.replace(case, inputs=2048 + case.inputs)
        rows, skip = case.rows(int(random.integers(1, 40)))
        for output in run(case.open(threads=1 + index % 3), rows, skip):
            digest.update(output.tobytes())
    for index in range(24):
        case = random_case(random)
        rows, skip = case.rows(int(random.integers(1, 40)))
        if index % 8 == 7:
            case = dataclasses.replace(case, inputs=2048 + case.inputs)
            rows, skip = case.rows(int(random.integers(7, 40)))
        if index % 6 == 5:
            rows *= np.float32(1e-37)  # subnormal numbers among the values
        for output in run(case.open(threads=1 + index % 3), rows, skip):
            digest.update(output.tobytes())
        codes, scales, _, norm_weight = case.weights()
        factors, group = (pack_factors(case.factors()), 64) if case.has_groups else (None, 0)
        norm = open_node("Norm", [FLOAT, norm_weight, FLOAT], ["y", "sum"], epsilon=1e-6)
        for output in run(norm, rows[:, : case.inputs], rows[:, : case.inputs] + 1):
            digest.update(output.tobytes())
        embedding = open_node(
            "Embedding", [INT64, pack_codes(codes), scales, factors], ["y"], inputs=case.inputs, bits=8, group=group
        )
        (output,) = run(embedding, random.integers(0, case.outputs, 5))
        digest.update(output.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(kernels.level(), bits_of_cases())
