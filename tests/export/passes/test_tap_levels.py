"""Levels of a target as an output of its graph."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.tap_levels import TapLevels
from dovetail_ort_export.pipeline import make_pass, run_pass
from dovetail_ort_export.recipe import Step
from dovetail_ort_runtime.errors import InputError


def test_the_levels_stand_side_by_side_in_the_order_that_is_asked_for(bound):
    graph = TapLevels((2, 0))(bound("llama")).model
    assert [value.name for value in graph.graph.outputs][:3] == ["logits", "hidden_states", "drafter_features"]
    features = graph.graph.outputs[2]
    concat = features.producer()
    assert [value.name for value in concat.inputs] == ["/layers.1/Add_1_output_0", "/embed_tokens/Embedding_output_0"]
    assert features.shape[2] == 2 * 64
    assert features.shape[:2] == graph.graph.outputs[1].shape[:2]


def test_a_recipe_can_name_it(bound):
    step = Step.parse("tap-levels(levels=[1])")
    assert make_pass(step)(bound("qwen2")).modified


@pytest.mark.parametrize("level", [-1, 3])
def test_a_level_that_the_target_does_not_have_is_refused(level, bound):
    with pytest.raises(InputError, match=f"level {level} must be between 0 and 2"):
        run_pass(bound("llama"), "tap-levels", TapLevels((1, level)))


def test_a_graph_is_tapped_once(bound):
    graph = TapLevels((1,))(bound("llama")).model
    with pytest.raises(ir.passes.PreconditionError, match="the graph has the output drafter_features already"):
        TapLevels((1,))(graph)
