"""A head's rotary tables against the witness's frequencies, which are computed by other code."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.errors import SourceError

SIZE, CONTEXT = 64, 1024

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


@pytest.fixture
def tables(torch):
    """`tables(config, max_positions, max_context)`: cosines and sines."""
    from dovetail_ort_export.heads.rotary import rotary_tables
    from dovetail_ort_export.source.rotary import read_rotary

    def make(config, max_positions=256, max_context=CONTEXT):
        made = rotary_tables(read_rotary(config, SIZE), SIZE, max_positions, max_context)
        return made.cos.numpy(), made.sin.numpy()

    return make


def frequencies(kind, theta):
    from dovetail_ort_export.checking.witness import rotary

    plain = rotary.plain_frequencies(theta, SIZE)
    if kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / 2, 1.0
    if kind == "llama3":
        return rotary.llama3_frequencies(plain, 8.0, 1.0, 4.0, 256), 1.0
    return rotary.yarn_frequencies(theta, SIZE, 4.0, 256), rotary.yarn_attention_factor(4.0)


@pytest.mark.parametrize(
    ("config", "kind", "theta"),
    [
        ({}, "default", 1e4),
        ({"rope_theta": 1e6}, "default", 1e6),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear", 1e4),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, "llama3", 5e5),
        ({"rope_parameters": {"rope_theta": 1e6, **YARN}}, "yarn", 1e6),
    ],
)
def test_each_kind_of_rotation_reaches_as_far_as_the_target(tables, config, kind, theta):
    cos, sin = tables(config)
    angular, factor = frequencies(kind, theta)
    angles = np.arange(CONTEXT, dtype=np.float32)[:, None] * angular.numpy()
    assert cos.shape == (CONTEXT, SIZE // 2)
    # Frequencies in float32, by two orders of computation: 1e-7 of an angle of a thousand.
    np.testing.assert_allclose(cos, np.cos(angles) * factor, atol=2e-4)
    np.testing.assert_allclose(sin, np.sin(angles) * factor, atol=2e-4)


def test_a_dynamic_rotation_is_refused_beyond_the_heads_own_positions(tables):
    dynamic = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    assert tables(dynamic, max_context=256)[0].shape == (256, SIZE // 2)
    with pytest.raises(SourceError, match="256 positions"):
        tables(dynamic)
