"""Recipes as text: what is read, what is refused, and those that ship."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dovetail_ort_export.recipe import Recipe, Step, built_in_recipe, read_recipe
from dovetail_ort_runtime.errors import InputError

VARIANTS = sorted((Path(__file__).parents[2] / "benchmarks" / "recipes").glob("*.toml"))
TARGETS = [*map(built_in_recipe, ("native", "portable")), *map(read_recipe, VARIANTS)]
NAMES = ["native", "portable", *(path.stem for path in VARIANTS)]


def test_a_pass_is_a_name_or_a_table_with_options():
    text = 'precision = "int4"\npasses = ["pack-qkv", { pass = "lower-int8-blocks", mlp_bits = 4, block_size = 64 }]'
    recipe = Recipe.from_toml(text, "the recipe")
    assert recipe.precision == "int4"
    assert recipe.steps == (Step("pack-qkv"), Step("lower-int8-blocks", {"mlp_bits": 4, "block_size": 64}))
    assert recipe.describe() == ("pack-qkv", "lower-int8-blocks(mlp_bits=4, block_size=64)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precision = ", "the recipe is not TOML: "),
        ('precision = "int8"', "must have the keys passes, precision, got precision"),
        ("", "must have the keys passes, precision, got none"),
        (
            'precision = "int8"\npasses = []\nname = ""',
            "must have the keys passes, precision, got precision, passes",
        ),
        ('precision = "int3"\npasses = ["a"]', "precision must be one of int8, int4, fp16, fp32, got 'int3'"),
        ('precision = ["int8"]\npasses = ["a"]', "precision must be one of int8, int4, fp16, fp32, got ['int8']"),
        ('precision = "int8"\npasses = []', "passes must be a list of one pass or more, got []"),
        ('precision = "int8"\npasses = "pack-qkv"', "passes must be a list of one pass or more, got 'pack-qkv'"),
        ('precision = "int8"\npasses = [3]', 'a pass must be a name or a table with the key "pass", got 3'),
        ('precision = "int8"\npasses = [{ name = "a" }]', "a table with the key \"pass\", got {'name': 'a'}"),
        ('precision = "int8"\npasses = [{ pass = 3 }]', "a table with the key \"pass\", got {'pass': 3}"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        Recipe.from_toml(text, "the recipe")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="the recipe is no readable UTF-8 file: "):
        read_recipe(path)


@pytest.mark.parametrize(
    ("passes", "graph_format"),
    [
        (("pack-qkv", "lower-native"), "native"),
        (("lower-native(cache='fp32')",), "native"),
        (("lower-int8-blocks",), "portable"),
        (("pack-qkv", "lower-float"), "portable"),
    ],
)
def test_the_lowering_says_of_which_operators_a_graph_is(passes, graph_format):
    assert Recipe("int8", tuple(map(Step.parse, passes))).format == graph_format


def test_an_option_is_given_to_the_pass_it_is_for():
    recipe = Recipe("int8", (Step("pack-qkv"), Step("lower-native", {"other": 1})))
    given = recipe.given("lower-native", cache="fp32")
    assert given.describe() == ("pack-qkv", "lower-native(other=1, cache='fp32')")
    assert recipe.given("lower-float", cache="fp32") == recipe


def test_another_lowering_takes_the_place_and_the_options_of_the_first():
    recipe = Recipe("int8", (Step("pack-qkv"), Step("lower-int8-blocks", {"block_size": 64}), Step("rank-candidates")))
    half = recipe.lowered_by("lower-half", "fp16")
    assert half == Recipe("fp16", (Step("pack-qkv"), Step("lower-half"), Step("rank-candidates")))


def test_a_pass_is_left_out_wherever_it_stands():
    recipe = Recipe("int8", (Step("a"), Step("b"), Step("a", {"x": 1})))
    assert recipe.without("a").names == ("b",)


def test_every_built_in_recipe_names_passes_that_there_are():
    from dovetail_ort_export.passes import BUILT_IN_PASSES

    for name in ("native", "portable", "fp32", "drafter"):
        assert set(built_in_recipe(name).names) <= set(BUILT_IN_PASSES), name


@pytest.mark.parametrize("recipe", TARGETS, ids=NAMES)
def test_every_target_recipe_makes_a_graph_that_loads(recipe, tiny_model, tmp_path):
    import numpy as np

    from dovetail_ort_export.passes.context import PassContext
    from dovetail_ort_export.pipeline import apply_recipe
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target
    from dovetail_ort_export.writing.graph_file import save_graph
    from dovetail_ort_runtime.engine.session import open_session

    model = tiny_model("llama")
    maxima = {f"{block}.{part}": np.ones(32, dtype=np.float32) for block in (0, 1) for part in ("key", "value")}
    context = PassContext(weights=Weights(model, max_context=512), cache_maxima=maxima)
    graph = apply_recipe(trace_target(model), recipe, context)
    save_graph(graph, tmp_path / "model.onnx")
    open_session(tmp_path / "model.onnx", 1)
