"""A drafter whose embedding is the target's looks tokens up in the target's file."""

from __future__ import annotations

import shutil

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.draft_graph import DraftGraph


@pytest.fixture
def attached(published_heads, tmp_path):
    """`attached(bundle, precision, shares=True, **head)`: folder, entry, parts and whether the embedding is shared."""
    from dovetail_ort_export.heads.published import read_published_head
    from dovetail_ort_export.writing.drafter_parts import published_parts
    from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe, write_drafter
    from dovetail_ort_export.writing.shared_embedding import share_embedding
    from dovetail_ort_export.writing.target_ends import read_target_ends

    def attach(path, precision="auto", *, shares=True, change=None, **sizes):
        bundle = Bundle(path)
        target = bundle.manifest.target
        ends = read_target_ends(bundle)
        head = published_heads.dialect_head("specforge", **sizes)
        if change is not None:
            head.tensors["embed_tokens.weight"] = change(ends.embedding.copy())
        folder = tmp_path / f"{precision} {shares}"
        published = read_published_head(published_heads.write_dialect(head, "specforge", folder / "head"))
        parts = published_parts(
            published, published.readings(2)[0], ends, is_quantised=target.precision in ("int8", "int4")
        )
        recipe = drafter_recipe(precision, target.format)
        entry = drafter_entry(parts, "", "drafter.onnx", recipe)
        for file in path.glob("model*"):
            shutil.copyfile(file, folder / file.name)
        graph = drafter_graph(parts, recipe)
        is_shared = shares and parts.has_target_embedding and share_embedding(graph, entry, target, folder)
        write_drafter(graph, folder, entry)
        return folder, entry, is_shared

    return attach


def drafted(folder, entry):
    """Predicted states and candidates of a few rows."""
    random = np.random.default_rng(3)
    features = random.standard_normal((13, 64), dtype=np.float32)
    model = DraftGraph(folder / entry.graph, entry, capacity=64, threads=1)
    token_ids = random.integers(0, 384, 13)
    found = model.forward(features, token_ids, np.arange(13), num_scored=13, num_candidates=4)
    return found.hidden_states.copy(), found.candidate_ids.copy()


BUNDLES = [
    ("tiny_bundle", "int4"),
    ("tiny_bundle", "int8"),
    ("tiny_bundle_portable", "int8"),
    ("tiny_bundle_fp32", "fp32"),
]


@pytest.mark.parametrize(("bundle", "precision"), BUNDLES)
def test_a_drafter_with_the_targets_embedding_drafts_the_same_from_a_smaller_file(request, attached, bundle, precision):
    path = request.getfixturevalue(bundle)
    shared, entry, is_shared = attached(path, precision)
    alone, _, _ = attached(path, precision, shares=False)
    assert is_shared
    weights = "drafter.onnx_data"
    # A table of 384 tokens and 64 numbers each, a byte or more a number.
    assert (alone / weights).stat().st_size - (shared / weights).stat().st_size > 384 * 64 * 0.9
    states, candidates = drafted(shared, entry)
    expected, expected_candidates = drafted(alone, entry)
    # The table of its own was quantised a second time.
    np.testing.assert_allclose(states, expected, atol=0.02 * np.abs(expected).max())
    assert (candidates[:, 0] == expected_candidates[:, 0]).mean() > 0.9


@pytest.mark.parametrize(("bundle", "precision"), BUNDLES)
def test_the_shared_weights_lie_in_the_targets_own_file(request, attached, bundle, precision):
    folder, entry, _ = attached(request.getfixturevalue(bundle), precision)
    initializers = ir.load(folder / entry.graph).graph.initializers.values()
    locations = {
        str(value.const_value.location) for value in initializers if isinstance(value.const_value, ir.ExternalTensor)
    }
    assert len(locations) == 2
    assert "drafter.onnx_data" in locations


def test_a_drafter_that_is_written_elsewhere_takes_the_embedding_along(attached, tiny_bundle, tmp_path):
    from dovetail_ort_export.writing.drafter_writer import write_drafter
    from dovetail_ort_export.writing.graph_file import load_graph

    folder, entry, _ = attached(tiny_bundle)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_drafter(load_graph(folder / entry.graph), elsewhere, entry)
    for found, expected in zip(drafted(elsewhere, entry), drafted(folder, entry), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda table: table, True),
        (lambda table: table + 1e-4 * np.abs(table).max(-1, keepdims=True), True),
        (lambda table: table + 0.05 * np.abs(table).max(-1, keepdims=True), False),
        (lambda table: table[::-1].copy(), False),
    ],
)
def test_an_own_embedding_is_shared_only_if_it_is_the_targets_but_for_the_rounding(
    attached, tiny_bundle, change, expected
):
    _, _, is_shared = attached(tiny_bundle, change=change)
    assert is_shared == expected


def test_an_own_embedding_that_differs_at_all_from_an_fp32_targets_is_kept(attached, tiny_bundle_fp32):
    assert attached(tiny_bundle_fp32, "fp32", change=lambda table: table)[2]
    assert not attached(tiny_bundle_fp32, "fp32", shares=True, change=lambda table: table * np.float32(1.0001))[2]


def test_a_drafter_for_a_gpu_has_a_table_of_its_own(attached, tiny_bundle):
    assert not attached(tiny_bundle, "fp16")[2]
