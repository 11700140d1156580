"""Every family against transformers: all rows, logits and hidden states, prompts, steps and trees.

In fp32 the graph is the model itself; in native operators the model with 8 bits in its products.
"""

from __future__ import annotations

import copy
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.verification import verification_rows
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

# fp32 sums in another order; logits here are below 30.
TOLERANCE = 1e-4
# Of a row's norm: float32 sums in another order. The first rows have only that.
SHARE_OF_ROUNDING = 1e-5
# Where that order moves a number across the middle of two steps, the step is a 127th of its block's largest, and all
# later rows see it. 8 bits themselves cost 0.06 on these models.
SHARE_OF_STEPS = 0.04
NUM_TOKENS = 150
CHUNKS = (4, 1, 5, 2, 1, 1, 64, 3)

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 32,  # transformers reads shorter texts than that by the other table
    "short_factor": [1.0 + i / 10 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
MHA_BIASED = {
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "mlp_bias": True,
}
CASES = {
    "llama, GQA, tied": ("llama", {}),
    "llama, MHA, untied, biases": ("llama", MHA_BIASED),
    "llama, llama3 rope": ("llama", {"rope_scaling": LLAMA3}),
    "llama, yarn rope": ("llama", {"rope_scaling": YARN}),
    "llama, linear rope": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, longrope, the long table": ("llama", {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "mistral, window of the whole context": ("mistral", {"sliding_window": 64, "max_position_embeddings": 64}),
    "qwen2": ("qwen2", {}),
    "qwen2, window in the second block of the whole context": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 64, "max_position_embeddings": 64, "max_window_layers": 1},
    ),
    "qwen2, small window that no block uses": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention"] * 2},
    ),
    "qwen3, heads wider together than the hidden size": ("qwen3", {"head_dim": 32}),
    "qwen3, MHA, untied, biases": (
        "qwen3",
        {"num_key_value_heads": 4, "tie_word_embeddings": False, "attention_bias": True},
    ),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request, tiny_source, tmp_path_factory, torch):
    """One family: its model in transformers, and the target of its fp32 bundle."""
    import transformers

    from dovetail_ort_export import ExportOptions, export_bundle

    family, settings = request.param
    source = tiny_source(family, **settings)
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    export_bundle(str(source), out, ExportOptions(precision="fp32"))
    model = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    return SimpleNamespace(model=model, target=target_of(out), source=source)


@pytest.fixture(scope="module")
def native(case, tmp_path_factory):
    """The target of the same family's native bundle, with a cache that rounds nothing."""
    from dovetail_ort_export import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("bundle") / "bundle"
    export_bundle(str(case.source), out, ExportOptions(format="native", kv_cache="fp32"))
    return target_of(out)


@pytest.fixture
def tokens(case):
    """As many as the context holds, 150 at most."""
    return np.random.default_rng(3).integers(0, 384, min(NUM_TOKENS, case.target.cache.capacity))


def target_of(directory):
    bundle = Bundle(directory)
    return Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, threads=1)


def reference(model, tokens):
    """Logits (T, V) and hidden states after the final norm (T, E) of transformers."""
    import torch

    with torch.no_grad():
        output = model(torch.from_numpy(tokens)[None], output_hidden_states=True, use_cache=False)
    return output.logits[0].numpy(), output.hidden_states[-1][0].numpy()


def read(target, tokens, chunks):
    """The same of the target, fed from its cache's length on."""
    logits, states = [], []
    start, sizes = 0, cycle(chunks)
    while start < len(tokens):
        chunk = tokens[start : start + next(sizes)]
        rows = target.forward(ForwardRows.chain(chunk, target.cache.length))
        logits.append(rows.logits.copy())
        states.append(rows.hidden_states.copy())
        target.cache.keep(range(len(chunk)))
        start += len(chunk)
    return np.concatenate(logits), np.concatenate(states)


def test_every_row_agrees_with_transformers_in_chunks_and_cached_steps(case, tokens):
    case.target.cache.rewind(0)
    logits, states = read(case.target, tokens, CHUNKS)
    expected_logits, expected_states = reference(case.model, tokens)
    assert np.abs(logits - expected_logits).max() <= TOLERANCE
    assert np.abs(states - expected_states).max() <= TOLERANCE


def test_the_native_graph_is_the_model_with_8_bits_in_its_products_and_in_nothing_else(case, native, tokens, torch):
    native.cache.rewind(0)
    found = read(native, tokens, CHUNKS)
    for rows, expected in zip(found, reference(in_8_bits(case.model, torch), tokens), strict=True):
        shares = np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert np.quantile(shares, 0.1) <= SHARE_OF_ROUNDING
        assert shares.max() <= SHARE_OF_STEPS


def in_8_bits(model, torch):
    """A copy whose products round what they read in blocks, over weights that are rounded by 64 inputs of an output."""
    rounded = copy.deepcopy(model)
    for name, module in rounded.named_modules():
        if isinstance(module, torch.nn.Linear):
            block = 32 if name.endswith(("lm_head", "q_proj", "k_proj", "v_proj")) else 64
            module.register_forward_pre_hook(lambda _, inputs, block=block: (rounded_in_blocks(inputs[0], block),))
    for parameter in rounded.parameters():
        if parameter.dim() == 2:
            steps = steps_of(parameter.detach(), torch)
            parameter.data = (parameter / steps).round() * steps
    return rounded


def steps_of(weight, torch):
    """Of each number: a 127th of its output's largest, times the share of its 64 inputs in half precision."""
    largest = torch.stack([group.abs().amax(dim=1) for group in weight.split(64, dim=1)], dim=1)
    of_output = largest.amax(dim=1, keepdim=True)
    shares = largest / of_output
    factors = shares.half()
    above = torch.nextafter(factors, torch.ones_like(factors))
    factors = torch.where(factors < shares, above, factors).float()
    return (of_output / 127 * factors).repeat_interleave(64, dim=1)[:, : weight.shape[1]]


def rounded_in_blocks(x, block):
    """Multiples of a 127th of the largest of each `block` numbers of the last axis."""
    from torch.nn import functional

    width = x.shape[-1]
    blocks = functional.pad(x, (0, -width % block)).unflatten(-1, (-1, block))
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    return ((blocks * (127 / largest)).round() * (largest / 127)).flatten(-2)[..., :width]


def test_a_native_row_has_the_same_bits_in_passes_of_any_size(native, tokens):
    native.cache.rewind(0)
    logits, states = read(native, tokens, CHUNKS)
    native.cache.rewind(0)
    one_by_one = read(native, tokens, (1,))
    np.testing.assert_array_equal(logits, one_by_one[0])
    np.testing.assert_array_equal(states, one_by_one[1])


def test_a_native_path_of_a_tree_has_the_bits_of_that_path_alone(native, tokens):
    past, root = tokens[:40], int(tokens[40])
    tree = Proposal(token_ids=np.array([5, 6, 7, 8, 9, 10, 11]), parents=np.array([ROOT, 0, 1, 0, 3, ROOT, 5]))
    native.cache.rewind(0)
    read(native, past, (40,))
    rows = native.forward(verification_rows(root, tree, len(past)))
    logits, states = rows.logits.copy(), rows.hidden_states.copy()
    for leaf in (2, 4, 6):
        path = path_to(tree, leaf)
        native.cache.rewind(40)
        alone = read(native, np.array([root, *tree.token_ids[path]]), (1,))
        kept = [0, *(node + 1 for node in path)]
        np.testing.assert_array_equal(logits[kept], alone[0])
        np.testing.assert_array_equal(states[kept], alone[1])


def test_every_path_of_a_tree_agrees_with_transformers_on_that_path_alone(case, tokens):
    past, root = tokens[:40], int(tokens[40])
    #        root -> 5 -> 6 -> 7
    #             |    `-> 8 -> 9
    #             `-> 10 -> 11
    tree = Proposal(
        token_ids=np.array([5, 6, 7, 8, 9, 10, 11]),
        parents=np.array([ROOT, 0, 1, 0, 3, ROOT, 5]),
    )
    case.target.cache.rewind(0)
    read(case.target, past, (40,))
    rows = case.target.forward(verification_rows(root, tree, len(past)))
    for leaf in (2, 4, 6):
        path = path_to(tree, leaf)
        text = np.concatenate([past, [root], tree.token_ids[path]])
        expected_logits, expected_states = reference(case.model, text)
        kept = [0, *(node + 1 for node in path)]
        assert np.abs(rows.logits[kept] - expected_logits[40:]).max() <= TOLERANCE
        assert np.abs(rows.hidden_states[kept] - expected_states[40:]).max() <= TOLERANCE


def path_to(tree, leaf):
    """Indices of the draft tokens from the root's child to `leaf`."""
    path = []
    while leaf != ROOT:
        path.append(leaf)
        leaf = int(tree.parents[leaf])
    return path[::-1]


def test_a_bfloat16_checkpoint_exports_as_its_float32_copy(tiny_source, tmp_path, torch):
    import transformers

    from dovetail_ort_export import ExportOptions, export_bundle

    source = tiny_source("llama", dtype=torch.bfloat16)
    export_bundle(str(source), tmp_path / "bundle", ExportOptions(precision="fp32"))
    widened = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    tokens = np.arange(40)
    logits, states = read(target_of(tmp_path / "bundle"), tokens, CHUNKS)
    expected_logits, expected_states = reference(widened, tokens)
    assert np.abs(logits - expected_logits).max() <= TOLERANCE
    assert np.abs(states - expected_states).max() <= TOLERANCE


def test_the_reference_of_a_bfloat16_checkpoint_is_computed_in_float32_and_leaves_it_as_it_was(tiny_source, torch):
    import transformers

    from dovetail_ort_export.checking.reference import reference_logits
    from dovetail_ort_export.source import load_source

    source = tiny_source("llama", dtype=torch.bfloat16)
    model = load_source(str(source)).model
    before = {name: (parameter.data_ptr(), parameter.clone()) for name, parameter in model.named_parameters()}
    tokens = np.arange(40)
    logits = reference_logits(model, tokens)
    expected, _ = reference(
        transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval(), tokens
    )
    np.testing.assert_array_equal(logits, expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    # The same memory: a checkpoint that is mapped from its file is not copied.
    for name, parameter in model.named_parameters():
        address, values = before[name]
        assert parameter.data_ptr() == address
        assert torch.equal(parameter, values)


def test_a_model_with_a_small_window_is_exported_up_to_that_window(tiny_source, tmp_path):
    from dovetail_ort_export import ExportOptions, export_bundle

    source = tiny_source("mistral", sliding_window=16)
    manifest = export_bundle(str(source), tmp_path / "bundle", ExportOptions(max_context=16)).manifest
    assert manifest.target.max_context == 16
