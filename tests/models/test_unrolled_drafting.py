"""A chain in one session call is the chain of the calls it stands for."""

import json

import pytest
import unrolled_drafting

from dovetail_ort_runtime.bundle import Bundle


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_unrolled_chain_is_the_chain_bit_for_bit(steps, tiny_drafting_bundle, tmp_path):
    calls = unrolled_drafting.ChainByCalls(Bundle(tiny_drafting_bundle))
    unrolled = unrolled_drafting.UnrolledChain(calls, steps, tmp_path)
    drafted = calls.draft(steps)
    assert len(drafted[0]) == steps
    for buffer in calls.model.cache.buffers:
        buffer[:, :, unrolled_drafting.NUM_PAST :] = 99  # what the unrolled graph does not write itself would show
    assert unrolled.draft() == drafted


def test_times_are_told_by_number_of_steps(tiny_drafting_bundle, monkeypatch, capsys):
    monkeypatch.setattr(unrolled_drafting, "ROUNDS", 3)
    unrolled_drafting.main(str(tiny_drafting_bundle))
    measured = json.loads(capsys.readouterr().out)["steps"]
    assert set(measured) == {"2", "4", "8"}
    assert all(found["calls_ms"] > 0 and found["unrolled_ms"] > 0 for found in measured.values())
