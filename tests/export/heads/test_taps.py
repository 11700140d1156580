"""Taps refuse what does not fit together."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_runtime.errors import InputError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ()}, "levels must be one number or more, got"),
        ({"levels": (1, -1)}, "levels must be 0 or more, got -1"),
        ({"levels": (1, 2), "precision": "int4"}, "precision must be one of int8, fp32, got 'int4'"),
        ({"levels": (1, 2), "bias": np.ones(4, np.float32)}, "Taps without a weight have neither a bias nor norms"),
        (
            {
                "levels": (1, 2),
                "weight": np.ones((4, 8), np.float32),
                "level_norms": (np.ones(4, np.float32),),
            },
            "level_norms must be as many as there are levels, got 1",
        ),
    ],
)
def test_taps_that_no_graph_can_have_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Taps(**settings)
