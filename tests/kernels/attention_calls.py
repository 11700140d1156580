"""Calls of the operator Attention: random shapes and rows, one node to run them, and what float64 says of them.

Run as a program, it prints a hash of the bits of calls of every kind, for the level that DOVETAIL_KERNELS names.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from dovetail_ort_runtime import kernels

BLOCK = kernels.CACHE_BLOCK
UNIT = 2.0**-24
"""Relative error of one rounding in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What one node of Attention is made for; sizes as in kernels.h."""

    heads: int
    kv_heads: int
    head_size: int
    rotary_size: int
    cache: str = "float16"
    window: int = 0
    soft_cap: float = 0.0
    is_normed: bool = False
    seed: int = 0

    @property
    def width(self):
        """Values of a row of qkv."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def scale(self):
        """Of the scores: larger than usual, so that the softmax has an opinion."""
        return np.float32(2.0 / self.head_size**0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of one call, as its inputs: all int64."""

    lengths: np.ndarray
    sequence_ids: np.ndarray
    slots: np.ndarray
    ancestors: np.ndarray
    position_ids: np.ndarray
    qkv: np.ndarray

    def take(self, order):
        """These of the rows, in this order."""
        fields = {
            name: getattr(self, name)[order] for name in ("sequence_ids", "slots", "ancestors", "position_ids", "qkv")
        }
        return dataclasses.replace(self, **fields)


def chain_rows(lengths, sequence_ids, positions, qkv):
    """Rows of chains: each stands at the slot of its position."""
    positions = np.asarray(positions, np.int64)
    return Rows(
        lengths=np.asarray(lengths, np.int64),
        sequence_ids=np.asarray(sequence_ids, np.int64),
        slots=positions,
        ancestors=np.zeros((len(positions), 0), np.int64),
        position_ids=positions,
        qkv=qkv,
    )


def path_of(parents, row):
    """Rows from the root of a tree down to this one."""
    path = []
    while row >= 0:
        path.append(row)
        row = parents[row]
    return path[::-1]


def tree_rows(length, parents, slots, qkv, width=0):
    """Rows of one sequence's tree: `parents` holds a row or -1, `slots` where each row is written."""
    paths = [path_of(parents, row) for row in range(len(parents))]
    ancestors = np.full((len(parents), max(width, max(map(len, paths)))), -1, np.int64)
    for row, path in enumerate(paths):
        ancestors[row, : len(path) - 1] = slots[path[:-1]]
    return Rows(
        lengths=np.array([length], np.int64),
        sequence_ids=np.zeros(len(parents), np.int64),
        slots=np.asarray(slots, np.int64),
        ancestors=ancestors,
        position_ids=np.array([length + len(path) - 1 for path in paths], np.int64),
        qkv=qkv,
    )


def together(calls):
    """Calls of one sequence each as one call: sequence i is that of call i."""
    most = max(call.ancestors.shape[1] for call in calls)
    padded = [
        np.pad(call.ancestors, ((0, 0), (0, most - call.ancestors.shape[1])), constant_values=-1) for call in calls
    ]
    return Rows(
        lengths=np.concatenate([call.lengths for call in calls]),
        sequence_ids=np.repeat(np.arange(len(calls)), [len(call.slots) for call in calls]),
        slots=np.concatenate([call.slots for call in calls]),
        ancestors=np.concatenate(padded),
        position_ids=np.concatenate([call.position_ids for call in calls]),
        qkv=np.concatenate([call.qkv for call in calls]),
    )


class Caches:
    """Keys (B, Hkv, M / 64, D, 64) and values (B, Hkv, M, D), which a node reads and writes in place."""

    def __init__(self, shape, sequences, slots, fill=np.nan):
        blocks = -(-slots // BLOCK)
        self.keys = np.full((sequences, shape.kv_heads, blocks, shape.head_size, BLOCK), fill, shape.cache)
        self.values = np.full((sequences, shape.kv_heads, blocks * BLOCK, shape.head_size), fill, shape.cache)

    def copy(self):
        """Caches of the same content."""
        other = object.__new__(Caches)
        other.keys = self.keys.copy()
        other.values = self.values.copy()
        return other

    def keys_by_slot(self, sequence):
        """Keys of one sequence, (Hkv, M, D)."""
        heads, blocks, size, _ = self.keys[sequence].shape
        return self.keys[sequence].transpose(0, 1, 3, 2).reshape(heads, blocks * BLOCK, size)

    def fill(self, sequence, length, generator):
        """Random keys and values for the first slots of a sequence."""
        heads, blocks, size, _ = self.keys[sequence].shape
        keys = self.keys_by_slot(sequence).copy()
        keys[:, :length] = generator.standard_normal((heads, length, size), np.float32)
        self.keys[sequence] = keys.reshape(heads, blocks, BLOCK, size).transpose(0, 1, 3, 2)
        self.values[sequence, :, :length] = generator.standard_normal((heads, length, size), np.float32)

    def move(self, sequence, sources, first):
        """Put the tokens of these slots into the slots from `first` on."""
        keys = self.keys_by_slot(sequence)[:, sources].copy()
        values = self.values[sequence, :, sources].copy()
        for i in range(len(sources)):
            slot = first + i
            self.keys[sequence, :, slot // BLOCK, :, slot % BLOCK] = keys[:, i]
            self.values[sequence, :, slot] = values[i]


def tables_of(shape, positions=16384):
    """Cosines and sines, (P, R / 2)."""
    half = shape.rotary_size // 2
    angles = np.arange(positions)[:, None] / 1000.0 ** (np.arange(half) / max(half, 1))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def norms_of(shape):
    """Weights of the norms by head, (2, D): query's and key's."""
    generator = np.random.default_rng(shape.seed)
    return 1 + 0.2 * generator.standard_normal((2, shape.head_size)).astype(np.float32)


class Node:
    """A session of one Attention."""

    def __init__(self, shape, threads):
        self.shape = shape
        self.tables = tables_of(shape)
        cache = TensorProto.FLOAT16 if shape.cache == "float16" else TensorProto.FLOAT
        integers = {"lengths": 1, "sequence_ids": 1, "slots": 1, "ancestors": 2, "position_ids": 2}
        inputs = [
            ("qkv", TensorProto.FLOAT, 3),
            ("past_key", cache, 5),
            ("past_value", cache, 4),
            *((name, TensorProto.INT64, rank) for name, rank in integers.items()),
            ("cos", TensorProto.FLOAT, 2),
            ("sin", TensorProto.FLOAT, 2),
        ]
        weights = dict(zip(("query_norm", "key_norm"), norms_of(shape), strict=True)) if shape.is_normed else {}
        outputs = [("context", TensorProto.FLOAT, 3), ("present_key", cache, 5), ("present_value", cache, 4)]
        node = helper.make_node(
            "Attention",
            [name for name, *_ in inputs] + list(weights),
            [name for name, *_ in outputs],
            domain=kernels.OPERATOR_DOMAIN,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=float(shape.scale),
            window=shape.window,
            soft_cap=shape.soft_cap,
            epsilon=1e-6,
        )
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind, rank in inputs],
            [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind, rank in outputs],
            [
                helper.make_tensor(name, TensorProto.FLOAT, weight.shape, weight.tolist())
                for name, weight in weights.items()
            ],
        )
        imports = [
            helper.make_opsetid("", 18),
            helper.make_opsetid(kernels.OPERATOR_DOMAIN, kernels.OPERATOR_VERSION),
        ]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.force_spinning_stop", "1")
        kernels.register(options)
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, caches, rows):
        """Context (S, H D) of these rows; the caches get the rows' keys and values."""
        binding = self.session.io_binding()
        binding.bind_output("context")
        feeds = {
            "qkv": rows.qkv[None],
            "lengths": rows.lengths,
            "sequence_ids": rows.sequence_ids,
            "slots": rows.slots,
            "ancestors": rows.ancestors,
            "position_ids": rows.position_ids[None],
            "cos": self.tables[0],
            "sin": self.tables[1],
        }
        held = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        for name, value in held.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        for name, array in (("key", caches.keys), ("value", caches.values)):
            value = ort.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy()[0].copy()


@functools.lru_cache(maxsize=32)
def node_of(shape, threads=2):
    """The session of this shape."""
    return Node(shape, threads)


def run(shape, caches, rows, threads=2):
    """Context (S, H D) of these rows; the caches get the rows' keys and values."""
    return node_of(shape, threads).run(caches, rows)


def qkv_of(shape, rows, generator):
    """Random rows of queries, keys and values."""
    return generator.standard_normal((rows, shape.width), np.float32)


def random_tree(generator, rows, length):
    """Parents of a random tree and a slot for each of its rows: children may stand before their parents."""
    rank = generator.permutation(rows)
    parents = np.full(rows, -1)
    for i in range(1, rows):
        if generator.random() < 0.9:
            parents[rank[i]] = rank[generator.integers(max(0, i - 6), i)]
    return parents, length + generator.permutation(rows)


def seen_slots(rows, row, window):
    """Slots that a row sees, in logical order, and the logical position of the first."""
    if rows.ancestors.shape[1] == 0:
        slots = np.arange(rows.slots[row] + 1)
    else:
        listed = rows.ancestors[row]
        prefix = np.arange(rows.lengths[rows.sequence_ids[row]])
        slots = np.concatenate([prefix, listed[listed >= 0], rows.slots[row : row + 1]])
    first = max(0, len(slots) - window) if window else 0
    return slots[first:]


def exact_heads(shape, heads, positions, norm):
    """Norm and rotary embedding in float64.

    Args:
        shape: of the node.
        heads: (S, heads, D).
        positions: (S,) rows of the tables.
        norm: weights of the norm (D,), or None.

    Returns:
        The heads, and a bound of the error that float32 makes in each value.
    """
    heads = heads.astype(np.float64)
    error = np.zeros_like(heads)
    if norm is not None:
        mean = np.mean(heads**2, axis=-1, keepdims=True)
        heads = heads / np.sqrt(mean + np.float64(np.float32(1e-6))) * norm
        # The squares' chain and tree, and the roundings of mean, sum, root, quotient and two products.
        error = np.abs(heads) * (shape.head_size / 16 + 12) * UNIT
    half = shape.rotary_size // 2
    cosine, sine = (table[positions][:, None].astype(np.float64) for table in tables_of(shape))
    low, high = heads[..., :half], heads[..., half : 2 * half]
    low_error, high_error = error[..., :half], error[..., half : 2 * half]
    rotated = np.concatenate([low * cosine - high * sine, high * cosine + low * sine, heads[..., 2 * half :]], -1)
    # Two roundings, each of at most the sum of both products' magnitudes.
    low_rounding = 2 * UNIT * (np.abs(low * cosine) + np.abs(high * sine))
    high_rounding = 2 * UNIT * (np.abs(high * cosine) + np.abs(low * sine))
    low_total = low_rounding + low_error * np.abs(cosine) + high_error * np.abs(sine)
    high_total = high_rounding + high_error * np.abs(cosine) + low_error * np.abs(sine)
    return rotated, np.concatenate([low_total, high_total, error[..., 2 * half :]], -1)


def split_heads(shape, qkv):
    """Query heads, key heads and value heads of rows of qkv."""
    heads = qkv.reshape(len(qkv), -1, shape.head_size)
    return np.split(heads, [shape.heads, shape.heads + shape.kv_heads], axis=1)


def exact_keys(shape, rows):
    """Keys of the rows, (S, Hkv, D) in float64 before they are rounded, and the bound of their error."""
    _, keys, _ = split_heads(shape, rows.qkv)
    return exact_heads(shape, keys, rows.position_ids, norms_of(shape)[1] if shape.is_normed else None)


def exact_context(shape, caches, rows):
    """Context of the rows over caches that hold them, in float64.

    Returns:
        Context (S, H D), and a bound of the error of float32 in each of its values. Scores are chains of D roundings,
        weights are off by the scores' errors and those of exp2, sums are chains of at most 512 positions and of all
        ranges.
    """
    queries, _, _ = split_heads(shape, rows.qkv)
    queries, query_errors = exact_heads(
        shape, queries, rows.position_ids, norms_of(shape)[0] if shape.is_normed else None
    )
    context = np.zeros((len(queries), shape.heads, shape.head_size))
    bound = np.zeros_like(context)
    kept = {sequence: caches.keys_by_slot(sequence) for sequence in set(rows.sequence_ids.tolist())}
    for row in range(len(queries)):
        sequence = int(rows.sequence_ids[row])
        slots = seen_slots(rows, row, shape.window)
        group = shape.heads // shape.kv_heads
        keys = kept[sequence][:, slots].astype(np.float64)
        values = caches.values[sequence][:, slots].astype(np.float64)
        query = queries[row].reshape(shape.kv_heads, group, -1) * np.float64(shape.scale)
        error = query_errors[row].reshape(query.shape) * np.float64(shape.scale) + 3 * UNIT * np.abs(query)
        scores = np.einsum("hgd,hsd->hgs", query, keys)
        magnitudes = np.einsum("hgd,hsd->hgs", np.abs(query), np.abs(keys))
        score_errors = np.einsum("hgd,hsd->hgs", error, np.abs(keys)) + (shape.head_size + 1) * UNIT * magnitudes
        if shape.soft_cap:
            # The slope of the cap is at most 1; tanh and the product with c have a few roundings.
            scores = shape.soft_cap * np.tanh(scores / shape.soft_cap)
            score_errors = score_errors + 8 * UNIT * np.abs(scores)
        below = scores - scores.max(-1, keepdims=True)
        weights = np.exp(below)
        weights /= weights.sum(-1, keepdims=True)
        # The difference to the largest is rounded once for the position and once for its range; exp2 has two
        # roundings each time.
        relative = score_errors + 2 * UNIT * np.abs(below) + 4 * UNIT
        ranges = (len(slots) + 511) // 512 + 1
        result = np.einsum("hgs,hsd->hgd", weights, values)
        spread = np.einsum("hgs,hsd->hgd", weights * (relative + (512 + ranges + 3) * UNIT), np.abs(values))
        mean_relative = np.einsum("hgs,hgs->hg", weights, relative)[..., None] + (32 + 4 + ranges) * UNIT
        context[row] = result.reshape(shape.heads, -1)
        # A tenth for the products of errors; a constant for weights below 2^-126, which become 0.
        bound[row] = (1.1 * (spread + np.abs(result) * mean_relative) + 1e-30).reshape(shape.heads, -1)
    return context.reshape(len(queries), -1), bound.reshape(len(queries), -1)


def bits_of_every_kind():
    """A hash of contexts and caches of chains and trees, with every attribute, in both types of cache."""
    digest = hashlib.sha256()
    shapes = (
        Shape(heads=9, kv_heads=3, head_size=64, rotary_size=64),
        Shape(heads=4, kv_heads=4, head_size=80, rotary_size=20, cache="float32", window=40, is_normed=True),
        Shape(heads=8, kv_heads=1, head_size=16, rotary_size=10, soft_cap=20.0),
        Shape(heads=2, kv_heads=1, head_size=128, rotary_size=96, cache="float32", window=600, soft_cap=5.0),
    )
    generator = np.random.default_rng(7)
    for shape in shapes:
        for length, count in ((0, 5), (61, 1), (505, 17), (1100, 7)):
            caches = Caches(shape, 2, length + count)
            for sequence in range(2):
                caches.fill(sequence, length, generator)
            parents, slots = random_tree(generator, count, length)
            tree = tree_rows(length, parents, slots, qkv_of(shape, count, generator))
            order = np.arange(count)
            chain = chain_rows([length], 0 * order, length + order, qkv_of(shape, count, generator))
            for rows in (together([tree, tree]), chain):
                rows = rows if len(rows.lengths) == 2 else dataclasses.replace(rows, lengths=np.array([length] * 2))
                digest.update(run(shape, caches, rows, threads=1).tobytes())
            digest.update(np.nan_to_num(caches.keys).tobytes())
            digest.update(np.nan_to_num(caches.values).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(bits_of_every_kind())
