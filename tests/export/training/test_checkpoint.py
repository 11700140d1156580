"""What a stopped training goes on from."""

from __future__ import annotations

import pytest
import torch

from dovetail_ort_export.heads.config import HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.training import checkpoint as checkpoints
from dovetail_ort_export.training.checkpoint import TrainingCheckpoint, TrainingState
from dovetail_ort_export.training.head_files import TrainingPoint
from dovetail_ort_export.training.optimisers import Optimisers
from dovetail_ort_runtime.errors import InputError

IDENTITY = {"target": "1" * 64, "batch_size": 4}
POINT = TrainingPoint(step=2, loss=6.5, acceptance=(0.5, 0.25), accepted_length=1.5)


@pytest.fixture
def open_checkpoint(tmp_path):
    """`open_checkpoint(identity, seed)`: a head drawn with the seed, and its checkpoint in a file that all share."""

    def open_it(identity=IDENTITY, seed=0):
        torch.manual_seed(seed)
        config = HeadConfig(
            fusion="gating",
            num_blocks=1,
            hidden_size=64,
            num_heads=2,
            num_kv_heads=1,
            head_size=32,
            intermediate_size=32,
            norm_epsilon=1e-5,
        )
        head = DraftHead(config)
        optimisers = Optimisers(head, learning_rate=0.01, num_steps=10, dtype=torch.float32)
        return head, TrainingCheckpoint(tmp_path / "checkpoint.pt", identity, head, optimisers)

    return open_it


def test_without_a_file_a_training_starts_afresh(open_checkpoint):
    _, checkpoint = open_checkpoint()
    assert checkpoint.load() == TrainingState()


def test_a_training_goes_on_with_the_weights_and_the_state_that_were_saved(open_checkpoint):
    head, checkpoint = open_checkpoint(seed=1)
    state = TrainingState(step=2, seconds=3.5, history=[POINT])
    checkpoint.save(state)
    other, again = open_checkpoint(seed=2)
    assert again.load() == state
    for name, weight in head.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name


def test_another_training_is_refused_and_leaves_the_weights_alone(open_checkpoint):
    _, checkpoint = open_checkpoint(seed=1)
    checkpoint.save(TrainingState(step=2))
    head, other = open_checkpoint({**IDENTITY, "batch_size": 8}, seed=2)
    before = {name: weight.clone() for name, weight in head.state_dict().items()}
    with pytest.raises(InputError, match="got one with another batch_size; delete it to start afresh"):
        other.load()
    assert all(torch.equal(weight, before[name]) for name, weight in head.state_dict().items())


def test_a_damaged_file_is_refused(open_checkpoint, tmp_path):
    _, checkpoint = open_checkpoint()
    checkpoint.save(TrainingState())
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"the checkpoint .* is damaged: .*; delete it to start afresh"):
        checkpoint.load()


def test_it_is_saved_again_only_when_the_last_time_is_long_ago(open_checkpoint, tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now)
    _, checkpoint = open_checkpoint()
    now += 100
    checkpoint.save_if_due(TrainingState())
    assert not (tmp_path / "checkpoint.pt").exists()
    now += 100
    checkpoint.save_if_due(TrainingState())
    assert (tmp_path / "checkpoint.pt").exists()
