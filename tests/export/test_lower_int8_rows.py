"""Scales by row: the numbers against float64, rows that are zero or not finite, and rows that stand alone."""

import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from dovetail_ort_export.export_options import ExportOptions
from dovetail_ort_export.exporter import export_bundle
from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lower_int8_rows import LowerInt8Rows
from dovetail_ort_export.quantization import output_scales, quantize_outputs
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.environment import sums_of_8_bits_saturate
from dovetail_ort_runtime.row_invariance import ROWS_AT_EXPORT, measure_row_invariance
from dovetail_ort_runtime.target import Target

RECIPES = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct" / "recipes"
WEIGHT = np.random.default_rng(0).normal(size=(24, 40)).astype(np.float32)
GAMMA = np.random.default_rng(1).uniform(0.5, 2, 40).astype(np.float32)


def session(ranges, **options):
    """What runs `lowered`."""
    proto = ir.to_proto(lowered(ranges, **options))
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def lowered(ranges, weight=WEIGHT, **options):
    """A graph of one norm and two products of it, another product of the input, all with the same weight."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["B", "S", 40]))
    ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["B", "S"]))
    graph = ir.Graph([x, ids], [], nodes=[], opset_imports={"": 18, "com.microsoft": 1}, name="products")
    model = ir.Model(graph, ir_version=10)
    weight, gamma = (
        ir.Value(
            name=name,
            const_value=ir.tensor(values, name=name),
            shape=ir.Shape(values.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        for name, values in (("weight", weight), ("gamma", GAMMA))
    )
    for value in (weight, gamma):
        graph.register_initializer(value)
    own = ir.node("Abs", [x])  # whatever gives it: no norm
    norm = ir.node("SimplifiedLayerNormalization", [x, gamma], {"epsilon": 1e-5, "axis": -1})
    products = [
        ir.node("Linear", [source.outputs[0], weight], domain="dovetail", name=name)
        for name, source in (("behind_norm", norm), ("again", norm), ("by_row", own))
    ]
    own.outputs[0].name, norm.outputs[0].name = "own", "norm"
    for node in (own, norm, *products):
        graph.append(node)
    for product in products:
        product.outputs[0].name = product.name
        product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(product.outputs[0])
    for name, largest in ranges.items():
        model.graph.initializers[name].meta[nodes.LARGEST_OUTPUT] = largest
    return LowerInt8Rows(**options)(model).model


def run(session, x):
    ids = np.zeros(x.shape[:2], np.int64)
    return session.run(["behind_norm", "again", "by_row"], {"x": x, "input_ids": ids})


def expected(rows, scales):
    """float64 products of the integers that `rows` over `scales` round to."""
    steps = np.clip(np.rint(rows / scales), -128, 127).astype(np.float64)
    return (steps @ quantize_outputs(WEIGHT).astype(np.float64)) * scales * output_scales(WEIGHT)


@pytest.fixture(params=["signed", "unsigned"])
def built(request):
    """`built(ranges)`: a session on the graph with weights that are stored so."""
    if request.param == "signed" and sums_of_8_bits_saturate():
        pytest.skip("this processor has no VNNI, and without it ONNX Runtime cuts off large sums of signed weights")
    return functools.partial(session, unsigned_weights=request.param == "unsigned")


@pytest.fixture
def x():
    rows = np.random.default_rng(2).normal(size=(2, 5, 40)).astype(np.float32)
    return rows * np.float32(10.0) ** np.arange(-2, 3, dtype=np.float32)[:, None]


def test_without_a_range_every_row_is_scaled_by_its_own_maximum(built, x):
    *_, found = run(built({}), x)
    own = np.abs(x)
    scales = (own.max(axis=-1, keepdims=True) * np.float32(1 / 127)).astype(np.float32)
    # The integers are the same but where float32 rounds across a half; then one step of one input is off.
    step = scales * np.abs(WEIGHT).max()
    assert (np.abs(found - expected(own, scales)) <= 1.01 * step).all()
    exact = np.isclose(found, expected(own, scales), rtol=1e-5, atol=0)
    assert exact.mean() > 0.9


def test_a_known_range_behind_a_norm_makes_the_scale_a_constant(built, x):
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 1e-5) * GAMMA
    found, again, _ = run(built({"gamma": 8.0}), x)
    np.testing.assert_array_equal(found, again)
    scale = np.float32(8.0 / 127)
    difference = np.abs(found - expected(normed, np.float64(scale)))
    assert (difference <= 1.01 * scale * np.abs(WEIGHT).max()).all()
    assert np.isclose(difference, 0, atol=1e-4).mean() > 0.9


def test_unsigned_weights_give_the_same_bits_as_signed_ones(x):
    # Activations that fill a tenth of their range reach no sum that any processor cuts off.
    signed, unsigned = (run(session({"gamma": 80.0}, unsigned_weights=flag), x)[0] for flag in (False, True))
    np.testing.assert_array_equal(signed, unsigned)


def test_sums_of_unsigned_weights_are_whole_on_any_processor():
    """The largest activations and weights there are: in 16 bits their pairs would be cut off."""
    x = np.full((1, 2, 40), 3.0, np.float32)
    weight = np.full_like(WEIGHT, 0.5)
    *_, found = run(session({}, weight=weight, unsigned_weights=True), x)
    np.testing.assert_allclose(found, 40 * 3.0 * 0.5, rtol=1e-6)


def test_products_of_one_input_share_its_integers():
    quantized = [node for node in lowered({}).graph if node.op_type == "QuantizeLinear"]
    assert len(quantized) == 2  # of the norm and of what is not a norm; the products are three


def test_a_row_of_zeros_gives_zeros_and_disturbs_no_other(x):
    x[0, 2] = 0
    for ranges in ({}, {"gamma": 8.0}):
        found = run(session(ranges), x)
        for output in found:
            assert np.isfinite(output).all()
            assert (output[0, 2] == 0).all()
            assert (output[0, 1] != 0).any()


def test_a_row_that_is_not_finite_disturbs_no_other(x):
    built = session({})
    clean = run(built, x)[2]
    x[0, 2, 3] = np.nan
    x[1, 0, 3] = np.inf
    found = run(built, x)[2]
    untouched = np.ones((2, 5), bool)
    untouched[0, 2] = untouched[1, 0] = False
    np.testing.assert_array_equal(found[untouched], clean[untouched])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("int8_format", ["row", "row-unsigned"])
def test_a_row_has_the_same_bits_in_a_pass_of_any_size(tiny_bundles_by_row, int8_format, threads):
    bundle = Bundle(tiny_bundles_by_row[int8_format])
    assert bundle.manifest.target.int8_format == int8_format
    target = Target(bundle.path("model_quantized.onnx"), bundle.manifest.target, threads=threads)
    assert measure_row_invariance(target, np.arange(130), ROWS_AT_EXPORT).identical
    assert set(ROWS_AT_EXPORT) == {2, 3, 5, 8, 16, 64}


def test_the_bits_do_not_depend_on_the_number_of_threads(tiny_bundle_row):
    from dovetail_ort_runtime.row_invariance import run_in_chunks

    bundle = Bundle(tiny_bundle_row)
    logits = [
        run_in_chunks(
            Target(bundle.path("model_quantized.onnx"), bundle.manifest.target, threads=threads), np.arange(130), 8
        )[0]
        for threads in (1, 2)
    ]
    np.testing.assert_array_equal(*logits)


def test_equalised_rows_agree_with_the_model_nearly_as_blocks_do(tiny_bundle_row, tiny_bundle):
    rows, blocks = (Bundle(path).manifest.measurements.agreement for path in (tiny_bundle_row, tiny_bundle))
    assert rows.mean_kl < 5 * blocks.mean_kl  # 2 on SmolLM2; a random model has wilder weights
    assert rows.top1 > blocks.top1 - 0.05


def test_attention_in_blocks_saves_nodes_and_rows_still_stand_alone(tiny_llama, tiny_bundle_row, tmp_path):
    report = export_bundle(
        str(tiny_llama), tmp_path / "out", ExportOptions(recipes=(RECIPES / "row-attention-in-blocks.toml",))
    )
    assert report.manifest.target.exact
    assert report.manifest.target.passes[-1] == "lower-int8-rows(attention_in_blocks=True)"
    products = {}
    for bundle in (tiny_bundle_row, tmp_path / "out"):
        graph = ir.load(bundle / "model_quantized.onnx").graph
        products[bundle] = sum(node.op_type == "MatMulNBits" for node in graph)
    layers = report.manifest.target.num_layers
    assert list(products.values()) == [layers, 2 * layers]
