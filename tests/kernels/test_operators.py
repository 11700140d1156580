"""What the operators refuse, when a kernel is made and when it is called: one line each, and nothing is written."""

from __future__ import annotations

import dataclasses
import re

import attention_calls
import numpy as np
import onnxruntime as ort
import pytest
from attention_calls import Caches, Node, Rows, Shape, chain_rows, qkv_of, tree_rows
from onnx import TensorProto, helper
from product_calls import FLOAT, INT64, open_node, pack_codes, pack_nibbles, run

from dovetail_ort_runtime import kernels

OUTPUTS, INPUTS = 70, 100
CODES = np.random.default_rng(0).integers(1, 256, (OUTPUTS, INPUTS)).astype(np.uint8)
PACKED = pack_codes(CODES)
SCALES = np.linspace(1e-3, 1e-2, OUTPUTS, dtype=np.float32)
FACTORS = np.full((3, 2, 32), 0.5, np.float16)
NORM = np.linspace(0.5, 1.5, INPUTS, dtype=np.float32)
PRODUCT = {"inputs": INPUTS, "block": 64}
GROUPED = PRODUCT | {"group": 64}
NIBBLES = pack_nibbles(CODES % 16)
STEPS = np.full((3, 4, 2, 32), 0.5, np.float16)
NIBBLE_PRODUCT = {"inputs": INPUTS, "block": 32, "bits": 4, "group": 32}
# What ONNX Runtime puts before the words of an operator.
WRAPPED = re.compile(r"(?:Status Message|during initialization): (.*)", re.DOTALL)


def refusal(call):
    """The operator's words; they must be one line that says what must be, what is there, and what to do."""
    with pytest.raises(Exception, match=r"must") as caught:  # onnxruntime raises its own classes
        call()
    (words,) = WRAPPED.findall(str(caught.value))
    assert "\n" not in words
    assert re.fullmatch(r".+ must .+, got .+; .+", words), words
    return words


def rows(count=3, width=INPUTS):
    return np.linspace(-1, 1, count * width, dtype=np.float32).reshape(count, width)


@pytest.mark.parametrize(
    ("name", "inputs", "attributes", "word"),
    [
        ("Product", [FLOAT, PACKED[:2], SCALES], PRODUCT, "weight"),
        ("Product", [FLOAT, PACKED[:, :24], SCALES], PRODUCT, "weight"),
        ("Product", [FLOAT, PACKED.reshape(-1), SCALES], PRODUCT, "weight"),
        ("Product", [FLOAT, PACKED, SCALES[:0]], PRODUCT, "scales"),
        ("Product", [FLOAT, PACKED, SCALES[None]], PRODUCT, "scales"),
        ("Product", [FLOAT, PACKED, SCALES[:64]], PRODUCT, "weight"),
        ("Product", [FLOAT, PACKED, SCALES, SCALES[:-1]], PRODUCT, "bias"),
        ("Product", [FLOAT, PACKED, SCALES, FLOAT], PRODUCT, "bias"),
        ("Product", [FLOAT, PACKED, FLOAT], PRODUCT, "scales"),
        ("Product", [FLOAT, PACKED, SCALES], {"inputs": INPUTS}, "block"),
        ("Product", [FLOAT, PACKED, SCALES], {"block": 64}, "inputs"),
        ("Product", [FLOAT, PACKED, SCALES], PRODUCT | {"block": 16}, "block"),
        ("Product", [FLOAT, PACKED, SCALES], PRODUCT | {"inputs": 0}, "inputs"),
        ("Product", [FLOAT, PACKED, SCALES], PRODUCT | {"inputs": -64}, "inputs"),
        ("Product", [FLOAT, PACKED, SCALES], PRODUCT | {"inputs": 2**62}, "inputs"),
        ("Product", [FLOAT, PACKED, SCALES], PRODUCT | {"bits": 2}, "bits must be 8 or 4, got 2"),
        ("Product", [FLOAT, NIBBLES, SCALES], NIBBLE_PRODUCT, "factors"),
        ("Product", [FLOAT, PACKED, SCALES, None, STEPS], NIBBLE_PRODUCT, "weight"),
        ("Product", [FLOAT, NIBBLES, SCALES, None, STEPS], NIBBLE_PRODUCT | {"bits": 8}, "weight"),
        ("Product", [FLOAT, NIBBLES, SCALES, None, STEPS], NIBBLE_PRODUCT | {"block": 64}, "block must be 32"),
        ("Product", [FLOAT, NIBBLES, SCALES, None, STEPS], NIBBLE_PRODUCT | {"group": 64}, "group must be 32"),
        ("Product", [FLOAT, NIBBLES, SCALES, None, STEPS[:, :3]], NIBBLE_PRODUCT, "factors"),
        ("Product", [FLOAT, NIBBLES, SCALES, None, STEPS[:, :, 0]], NIBBLE_PRODUCT, "factors"),
        ("GatedProduct", [FLOAT, NIBBLES, SCALES], NIBBLE_PRODUCT | {"activation": "silu"}, "factors"),
        ("NormProduct", [FLOAT, NORM, NIBBLES, SCALES], NIBBLE_PRODUCT | {"epsilon": 1e-5}, "factors"),
        (
            "Embedding",
            [INT64, NIBBLES, SCALES, STEPS],
            {"inputs": INPUTS, "bits": 4, "group": 32},
            "bits must be 8, got",
        ),
        ("Product", [FLOAT, PACKED, SCALES], PRODUCT | {"bits": 8.0}, "bits"),
        ("Product", [FLOAT, PACKED, SCALES], GROUPED, "got 64 without factors"),
        ("Product", [FLOAT, PACKED, SCALES, None, FACTORS], PRODUCT, "got 0 with factors"),
        ("Product", [FLOAT, PACKED, SCALES, None, FACTORS], PRODUCT | {"group": 32}, "group must be 0 or 64, got 32"),
        ("Product", [FLOAT, PACKED, SCALES, None, FACTORS[:, :1]], GROUPED, "factors"),
        ("Product", [FLOAT, PACKED, SCALES, None, FACTORS[:2]], GROUPED, "factors"),
        ("GatedProduct", [FLOAT, PACKED, SCALES, None, FACTORS[0]], GROUPED | {"activation": "silu"}, "factors"),
        ("NormProduct", [FLOAT, NORM, PACKED, SCALES], GROUPED | {"epsilon": 1e-5}, "group"),
        ("NormProduct", [FLOAT, NORM, PACKED, SCALES, None, None, FACTORS], PRODUCT | {"epsilon": 1e-5}, "group"),
        ("NormProduct", [FLOAT, NORM, PACKED, SCALES, None, None, FACTORS[1:]], GROUPED | {"epsilon": 1e-5}, "factors"),
        ("Embedding", [INT64, PACKED, SCALES], {"inputs": INPUTS, "group": 64}, "group"),
        ("Embedding", [INT64, PACKED, SCALES, FACTORS], {"inputs": INPUTS}, "group"),
        ("Embedding", [INT64, PACKED, SCALES, FACTORS[1:]], {"inputs": INPUTS, "group": 64}, "factors"),
        ("GatedProduct", [FLOAT, PACKED, SCALES], PRODUCT, "activation"),
        ("GatedProduct", [FLOAT, PACKED, SCALES], PRODUCT | {"activation": "relu"}, "activation"),
        ("GatedProduct", [FLOAT, PACKED, SCALES], PRODUCT | {"activation": "silu" * 99}, "activation"),
        ("NormProduct", [FLOAT, NORM[1:], PACKED, SCALES], PRODUCT | {"epsilon": 1e-5}, "norm_weight"),
        ("NormProduct", [FLOAT, NORM, PACKED, SCALES], PRODUCT, "epsilon"),
        ("NormProduct", [FLOAT, NORM, PACKED, SCALES], PRODUCT | {"epsilon": -1.0}, "epsilon"),
        ("NormProduct", [FLOAT, NORM, PACKED, SCALES], PRODUCT | {"epsilon": float("nan")}, "epsilon"),
        ("Norm", [FLOAT, NORM[:0]], {"epsilon": 1e-5}, "weight"),
        ("Norm", [FLOAT, FLOAT], {"epsilon": 1e-5}, "weight"),
        ("Embedding", [INT64, PACKED[:2], SCALES], {"inputs": INPUTS}, "weight"),
        ("Embedding", [INT64, PACKED, SCALES], {}, "inputs"),
    ],
)
def test_a_kernel_is_not_made_of_constants_and_attributes_that_contradict_each_other(name, inputs, attributes, word):
    assert word in refusal(lambda: open_node(name, inputs, ["y"], **attributes))


def test_a_product_refuses_rows_of_another_width():
    session = open_node("Product", [FLOAT, PACKED, SCALES], ["y"], **PRODUCT)
    assert "(3, 99)" in refusal(lambda: run(session, rows(width=99)))


def test_a_gated_product_wants_gate_and_up():
    session = open_node("GatedProduct", [FLOAT, PACKED, SCALES], ["y"], activation="silu", **PRODUCT)
    assert "200" in refusal(lambda: run(session, rows()))


def test_a_residual_must_be_as_large_as_the_rows():
    inputs = [FLOAT, NORM, PACKED, SCALES, None, FLOAT]
    session = open_node("NormProduct", inputs, ["y", "sum"], epsilon=1e-5, **PRODUCT)
    assert "skip" in refusal(lambda: run(session, rows(3), rows(2)))
    norm = open_node("Norm", [FLOAT, NORM, FLOAT], ["y"], epsilon=1e-5)
    assert "skip" in refusal(lambda: run(norm, rows(3), rows(2)))


@pytest.mark.parametrize("wrong", [-1, OUTPUTS, 2**40])
def test_an_embedding_refuses_ids_outside_the_vocabulary(wrong):
    session = open_node("Embedding", [INT64, PACKED, SCALES], ["y"], inputs=INPUTS)
    assert str(wrong) in refusal(lambda: run(session, np.array([0, wrong])))


def test_no_rows_give_no_rows():
    for name, inputs, attributes, width in (
        ("Product", [FLOAT, PACKED, SCALES], PRODUCT, INPUTS),
        ("GatedProduct", [FLOAT, PACKED, SCALES], PRODUCT | {"activation": "silu"}, 2 * INPUTS),
        ("NormProduct", [FLOAT, NORM, PACKED, SCALES], PRODUCT | {"epsilon": 1e-5}, INPUTS),
    ):
        (y,) = run(open_node(name, inputs, ["y"], **attributes), rows(0, width))
        assert y.shape == (0, OUTPUTS)
    (y,) = run(open_node("Embedding", [INT64, PACKED, SCALES], ["y"], inputs=INPUTS), np.zeros(0, np.int64))
    assert y.shape == (0, INPUTS)


def test_shapes_are_inferred_from_those_of_weights():
    product = open_node("NormProduct", [FLOAT, NORM, PACKED, SCALES], ["y", "sum"], epsilon=1e-5, **PRODUCT)
    y, total = (output.shape for output in product.get_outputs())
    assert y == ["input_0_rows", OUTPUTS]
    assert total == ["input_0_rows", "input_0_width"]


SHAPE = Shape(heads=4, kv_heads=2, head_size=32, rotary_size=16)
SLOTS = 128


def queries(count):
    return qkv_of(SHAPE, count, np.random.default_rng(count))


def chain(**changes):
    """Five rows after three tokens, with some of their inputs changed."""
    return dataclasses.replace(chain_rows([3], [0] * 5, range(3, 8), queries(5)), **changes)


def tree(row=0, column=0, value=-1):
    """Six rows after three tokens, a path of four and two side branches, with one ancestor changed."""
    made = tree_rows(3, [-1, 0, 1, 2, 0, 1], np.arange(3, 9), queries(6))
    made.ancestors[row, column] = value
    return made


REFUSED_ROWS = {
    "a length beyond the cache": (chain(lengths=np.array([SLOTS + 1])), "lengths"),
    "a length below nothing": (chain(lengths=np.array([-1])), "lengths"),
    "lengths of more sequences than the cache has": (chain(lengths=np.array([3, 3])), "lengths"),
    "a sequence that is not there": (chain(sequence_ids=np.array([0, 0, 0, 0, 1])), "sequence_ids"),
    "a negative sequence": (chain(sequence_ids=np.array([0, 0, 0, 0, -1])), "sequence_ids"),
    "a slot beyond the cache": (chain(slots=np.array([3, 4, 5, 6, SLOTS])), "slots"),
    "a slot of an earlier token": (chain(slots=np.array([3, 4, 5, 6, 2])), "slots"),
    "a slot that is written twice": (chain(slots=np.array([3, 4, 5, 6, 6])), "slots"),
    "a gap in a chain": (chain(slots=np.array([3, 4, 5, 6, 8])), "slots"),
    "too few slots": (chain(slots=np.arange(3, 7)), "slots"),
    "a position beyond the tables": (chain(position_ids=np.array([3, 4, 5, 6, 2**40])), "position_ids"),
    "a negative position": (chain(position_ids=np.array([3, 4, 5, 6, -1])), "position_ids"),
    "ancestors of fewer rows": (chain(ancestors=np.full((4, 2), -1)), "ancestors"),
    "queries of another width": (chain(qkv=queries(5)[:, :-1].copy()), "qkv"),
    "a row that is its own ancestor": (tree(3, 2, 6), "slot 6"),
    "an ancestor that is listed twice": (tree(3, 1, 3), "slot 3"),
    "an ancestor beyond the cache": (tree(1, 0, SLOTS), "ancestors"),
    "an ancestor below nothing": (tree(1, 0, -2), "ancestors"),
    "an ancestor that every row sees anyway": (tree(1, 0, 2), "ancestors"),
    "a parent with other ancestors": (tree(3, 1, 7), "tree"),
    "a slot of an earlier forward below a row of this one": (tree(2, 1, 100), "tree"),
    "two rows that are each other's ancestors": (tree(0, 0, 4), "tree"),
}


@pytest.mark.parametrize("case", REFUSED_ROWS)
def test_rows_that_form_no_chain_and_no_tree_are_refused_and_the_cache_stays(case):
    given, word = REFUSED_ROWS[case]
    caches = Caches(SHAPE, 1, SLOTS, fill=1)
    assert word in refusal(lambda: attention_calls.run(SHAPE, caches, given))
    assert (caches.keys == 1).all()
    assert (caches.values == 1).all()


def test_ancestors_of_an_earlier_pass_are_no_error():
    caches = Caches(SHAPE, 1, SLOTS)
    whole = tree()
    caches.fill(0, 3, np.random.default_rng(0))
    other = caches.copy()
    at_once = attention_calls.run(SHAPE, caches, whole)
    by_depth = [attention_calls.run(SHAPE, other, whole.take([row])) for row in range(6)]
    assert np.concatenate(by_depth).tobytes() == at_once.tobytes()


def test_no_rows_leave_the_cache_alone():
    caches = Caches(SHAPE, 1, SLOTS, fill=1)
    nothing = chain().take(slice(0, 0))
    assert attention_calls.run(SHAPE, caches, nothing).shape == (0, SHAPE.heads * SHAPE.head_size)
    assert (caches.keys == 1).all()


def bind(node, caches, given: Rows):
    binding = node.session.io_binding()
    feeds = {
        "qkv": given.qkv[None],
        "position_ids": given.position_ids[None],
        "cos": node.tables[0],
        "sin": node.tables[1],
        **{name: getattr(given, name) for name in ("lengths", "sequence_ids", "slots", "ancestors")},
        "past_key": caches.keys,
        "past_value": caches.values,
    }
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)))
    binding.bind_output("context")
    return binding


@pytest.mark.parametrize("own", ["key", "value"])
def test_a_cache_that_does_not_come_back_in_its_own_memory_is_refused(own):
    node, caches = Node(SHAPE, 1), Caches(SHAPE, 1, SLOTS, fill=1)
    binding = bind(node, caches, chain())
    for name, array in (("key", caches.keys), ("value", caches.values)):
        value = ort.OrtValue.ortvalue_from_numpy(array.copy() if name == own else array)
        binding.bind_ortvalue_output(f"present_{name}", value)
    assert f"present_{own}" in refusal(lambda: node.session.run_with_iobinding(binding))


def test_a_cache_of_another_shape_is_refused():
    node = Node(SHAPE, 1)
    for broken in (
        {"keys": np.zeros((1, 2, 2, 24, 64), np.float16), "values": np.zeros((1, 2, SLOTS, 24), np.float16)},
        {"keys": np.zeros((1, 2, 2, 32, 32), np.float16)},
        {"keys": np.zeros((1, 1, 2, 32, 64), np.float16)},
        {"values": np.zeros((1, 2, 64, 32), np.float16)},
        {"values": np.zeros((2, 2, SLOTS, 32), np.float16)},
    ):
        caches = Caches(SHAPE, 1, SLOTS)
        for name, value in broken.items():
            setattr(caches, name, value)
        assert "past_" in refusal(lambda caches=caches: node.run(caches, chain()))


def open_attention(**changes):
    """A session of an Attention with some of its attributes changed; None leaves one out."""
    attributes = {"num_heads": 4, "kv_num_heads": 2, "scale": 0.25} | changes
    ranks = {"qkv": 3, "past_key": 5, "past_value": 4, "lengths": 1, "sequence_ids": 1, "slots": 1, "ancestors": 2}
    ranks |= {"position_ids": 2, "cos": 2, "sin": 2}
    halves = dict.fromkeys(("past_key", "past_value", "present_key", "present_value"), TensorProto.FLOAT16)
    types = dict.fromkeys(("lengths", "sequence_ids", "slots", "ancestors", "position_ids"), TensorProto.INT64) | halves
    node = helper.make_node(
        "Attention",
        list(ranks),
        ["context", "present_key", "present_value"],
        domain=kernels.OPERATOR_DOMAIN,
        **{name: value for name, value in attributes.items() if value is not None},
    )
    outputs = {"context": 3, "present_key": 5, "present_value": 4}
    infos = [
        [helper.make_tensor_value_info(name, types.get(name, FLOAT), [None] * rank) for name, rank in side.items()]
        for side in (ranks, outputs)
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(kernels.OPERATOR_DOMAIN, kernels.OPERATOR_VERSION)]
    model = helper.make_model(helper.make_graph([node], "one", *infos), opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    kernels.register(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"num_heads": None}, "num_heads"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 2**40}, "num_heads"),
        ({"num_heads": 5}, "num_heads"),
        ({"kv_num_heads": -1}, "kv_num_heads"),
        ({"scale": None}, "scale"),
        ({"scale": 1}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"window": -1}, "window"),
        ({"window": 5.0}, "window"),
        ({"soft_cap": -1.0}, "soft_cap"),
        ({"soft_cap": float("nan")}, "soft_cap"),
        ({"epsilon": -1.0}, "epsilon"),
    ],
)
def test_an_attention_is_not_made_of_attributes_without_meaning(changes, word):
    assert open_attention() is not None
    assert word in refusal(lambda: open_attention(**changes))
