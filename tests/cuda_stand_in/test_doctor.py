"""What `dovetail-ort doctor` finds of CUDA, with a device and without."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.long


@pytest.fixture
def doctor(python, drafting):
    """`doctor(**variables)`: its findings by name."""

    def run(**variables):
        done = python("-m", "dovetail_ort", "doctor", drafting, "--json", **variables)
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    return run


def test_cuda_is_ok_where_a_graph_ran_on_the_device(doctor):
    found = doctor()
    assert found["cuda"]["status"] == "ok"
    assert "CUDA stand-in" in found["cuda"]["found"]
    assert "13.0" in found["cuda versions"]["found"]
    assert "nodes on CUDAExecutionProvider" in found["drafter"]["found"]
    assert "CPUExecutionProvider" not in found["drafter"]["found"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, "no CUDA-capable device is detected"),
        ({"STAND_IN_DRIVER": 12040}, "12.4"),
        ({"LD_LIBRARY_PATH": ""}, "got none"),
    ],
)
def test_without_a_device_cuda_is_not_ok_and_the_drafter_is_tried_on_the_cpu(variables, reason, doctor):
    found = doctor(**variables)
    assert found["cuda"]["status"] == "note"
    assert reason in found["cuda"]["found"]
    assert "nodes on CPUExecutionProvider" in found["drafter"]["found"]
