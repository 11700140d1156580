"""Equalisation alone changes no output; what it is made of does what it says."""

import numpy as np
import onnxruntime
import pytest

from dovetail_ort_export.equalization import Rotation, smoothing_scale
from dovetail_ort_runtime.errors import SourceError

SIZES = (1, 2, 7, 12, 64, 576, 960, 2048)


@pytest.mark.parametrize("size", SIZES)
def test_a_rotation_keeps_every_inner_product(size):
    rotation = Rotation(size)
    rotated = rotation.apply(np.eye(size, dtype=np.float32))
    # Entries of order 1 / sqrt(E), E of them summed in float32.
    np.testing.assert_allclose(rotated @ rotated.T, np.eye(size), atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_applying_is_the_product_with_the_kronecker_product_of_the_factors(size):
    rotation = Rotation(size)
    assert len(rotation.left) * len(rotation.right) == size
    x = np.random.default_rng(0).normal(size=(2, 3, size)).astype(np.float32)
    expected = x.astype(np.float64) @ np.kron(rotation.left, rotation.right).astype(np.float64)
    np.testing.assert_allclose(rotation.apply(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [64, 576, 960, 2048])
def test_an_outlier_channel_is_spread_over_all(size):
    # A cosine's entry is at most sqrt(2 / m) where a Hadamard's is sqrt(1 / m); two odd factors give 2.
    assert np.abs(Rotation(size).apply(np.eye(size, dtype=np.float32))).max() <= 2.001 / np.sqrt(size)


def test_two_rotations_of_one_size_are_the_same():
    np.testing.assert_array_equal(Rotation(576).left, Rotation(576).left)
    np.testing.assert_array_equal(Rotation(576).right, Rotation(576).right)


# What the project promises: folding costs float32 rounding and nothing else; logits here are below 30.
TOLERANCE = 1e-4
CASES = {
    "llama, GQA, tied": ("llama", {}),
    "llama, MHA, untied, biases": (
        "llama",
        {"num_key_value_heads": 4, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    ),
    "llama, a width of three times two to the fifth": ("llama", {"hidden_size": 96, "num_attention_heads": 6}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2, biases of query, key and value": ("qwen2", {}),
    "qwen3, norms of query and key": ("qwen3", {"head_dim": 32}),
}


@pytest.fixture(scope="module")
def equalize(torch):
    """`equalize(model, alpha)`: the weights of the equal model, measured on the tokens 0 to 149."""
    from dovetail_ort_export.calibration import activation_maxima
    from dovetail_ort_export.equalization import EqualizedWeights
    from dovetail_ort_export.weights import Weights

    def make(model, alpha=0.7):
        maxima = activation_maxima(model, [np.arange(150)])
        return EqualizedWeights(Weights(model, max_context=512), model.config, maxima, alpha)

    return make


def outputs(model, weights, tokens):
    """Logits and hidden states of the equalised fp32 graph, all tokens in one pass."""
    import onnx_ir as ir

    from dovetail_ort_export.pass_pipeline import apply_recipe
    from dovetail_ort_export.passes import PassContext
    from dovetail_ort_export.recipe import built_in_recipe
    from dovetail_ort_export.tracing import trace_target
    from dovetail_ort_export.weights import Weights

    context = PassContext(weights=Weights(model, max_context=512), equalized=weights)
    proto = ir.to_proto(
        apply_recipe(trace_target(model), built_in_recipe("row").lowered_by("lower-float", "fp32"), context)
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = len(tokens)
    feeds = {
        "input_ids": tokens[None],
        "position_ids": np.arange(rows)[None],
        "attention_bias": np.zeros((1, 1, rows, rows), np.float32),
        "seqlens_k": np.array([rows - 1], np.int32),
        "total_sequence_length": np.array(rows, np.int32),
        "scored_rows": np.arange(rows),
    }
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((1, value.shape[1], rows, value.shape[3]), np.float32)
    return session.run(["logits", "hidden_states"], feeds)


@pytest.mark.parametrize(("family", "settings"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_equalisation_alone_leaves_the_outputs_of_transformers(tiny_model, equalize, torch, family, settings, alpha):
    model = tiny_model(family, **settings)
    tokens = np.random.default_rng(5).integers(0, 384, 120)
    logits, states = outputs(model, equalize(model, alpha), tokens)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)[None], output_hidden_states=True, use_cache=False)
    assert np.abs(logits[0] - expected.logits[0].numpy()).max() <= TOLERANCE
    assert np.abs(states[0] - expected.hidden_states[-1][0].numpy()).max() <= TOLERANCE


def test_every_weight_but_the_final_norm_and_the_norms_of_query_and_key_is_another(tiny_model, equalize):
    model = tiny_model("qwen3")
    weights = equalize(model)
    own = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    same = {name for name, values in own.items() if np.array_equal(values, weights[name])}
    assert same == {"model.norm.weight"} | {
        f"model.layers.{layer}.self_attn.{part}_norm.weight" for layer in (0, 1) for part in "qk"
    }


def test_ranges_are_what_the_norms_of_the_equal_model_give(tiny_model, equalize, torch):
    """Against transformers: its norm's output, rotated and over the scale that the new norm weight is."""
    model = tiny_model("llama")
    weights = equalize(model)
    found = {}
    norm = model.model.layers[1].post_attention_layernorm
    handle = norm.register_forward_hook(lambda module, _, output: found.update(x=output[0] / module.weight))
    with torch.no_grad():
        model(torch.arange(150)[None], use_cache=False)
    handle.remove()
    name = "model.layers.1.post_attention_layernorm.weight"
    equal = weights.rotation.apply(found["x"].numpy()) * weights[name]
    assert weights.ranges[name] == pytest.approx(np.abs(equal).max(), rel=1e-5)
    assert len(weights.ranges) == 4


def test_an_outlier_channel_of_the_residual_stream_costs_no_range(tiny_model, equalize, torch):
    model = tiny_model("llama", hidden_size=256, num_attention_heads=16, num_key_value_heads=4)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 7] = 30.0  # the others are of order 0.2
    weights = equalize(model, 1.0)  # at alpha 1 the weights take all: every channel's maximum is 1
    assert all(value == pytest.approx(1, rel=1e-5) for value in weights.ranges.values())
    first = "model.layers.0.input_layernorm.weight"
    maxima = 1 / weights[first]
    assert maxima.max() < 3 * np.median(maxima)  # in the model's own basis it is 100 to one


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_smoothing_is_the_published_formula(alpha):
    random = np.random.default_rng(0)
    activation, weight = random.uniform(0.1, 50, (2, 40)).astype(np.float32)
    expected = activation.astype(np.float64) ** alpha / weight.astype(np.float64) ** (1 - alpha)
    np.testing.assert_allclose(smoothing_scale(activation, weight, alpha), expected, rtol=1e-6)


def test_a_channel_that_is_never_used_is_left_as_it_is():
    scale = smoothing_scale(np.array([0, 2, 0, 3], np.float32), np.array([1, 0, 0, 3], np.float32), 0.5)
    np.testing.assert_array_equal(scale, [1, 1, 1, 1])


def test_a_model_whose_activations_are_all_zero_is_equalised(tiny_model, equalize, torch):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    tokens = np.arange(20)
    logits, _ = outputs(model, equalize(model), tokens)
    assert np.array_equal(logits, np.zeros_like(logits))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_refused_by_name(tiny_model, equalize, torch, value):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = value
    message = r"activations of model\.layers\.1\.input_layernorm must be finite, got .*--int8-format block"
    with pytest.raises(SourceError, match=message):
        equalize(model)
