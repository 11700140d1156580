"""Drafters whose proposals are known, and the tiny bundle loaded afresh."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.model import load_model


class Recorder(Drafter):
    """Keeps what it observes and proposes nothing."""

    def __init__(self):
        self.token_ids: list[int] = []
        self.hidden_states: list[np.ndarray] = []

    def rewind(self, length):
        assert length <= len(self.token_ids), "a drafter cannot keep what it has not observed"
        del self.token_ids[length:], self.hidden_states[length:]

    def observe(self, token_ids, hidden_states):
        assert len(token_ids) == len(hidden_states)
        self.token_ids += token_ids.tolist()
        self.hidden_states += list(hidden_states.copy())

    def propose(self, next_token_id, max_draft_tokens):
        return Proposal.chain([])


class RandomChains(Recorder):
    """Chains of random length and random tokens: nearly all are rejected."""

    def __init__(self, vocabulary_size, seed=0):
        super().__init__()
        self.generator = np.random.default_rng(seed)
        self.vocabulary_size = vocabulary_size

    def propose(self, next_token_id, max_draft_tokens):
        length = self.generator.integers(0, max_draft_tokens + 1)
        return Proposal.chain(self.generator.integers(0, self.vocabulary_size, length))


class Oracle(Recorder):
    """Chains of the tokens that will come, each wrong with a given chance: rounds of every length.

    Args:
        text: prompt and answer.
        wrong: chance that a token is replaced by the next id.
    """

    def __init__(self, text, wrong=0.2, seed=0):
        super().__init__()
        self.text = list(text)
        self.wrong = wrong
        self.generator = np.random.default_rng(seed)
        self.largest_request = 0

    def propose(self, next_token_id, max_draft_tokens):
        self.largest_request = max(self.largest_request, max_draft_tokens)
        return Proposal.chain(self.chain(max_draft_tokens))

    def chain(self, length):
        place = len(self.token_ids) + 1
        ahead = np.array(self.text[place : place + length], dtype=np.int64)
        return np.where(self.generator.random(len(ahead)) < self.wrong, self.other(ahead), ahead)

    @staticmethod
    def other(token_ids):
        return (token_ids + 1) % 384


class TreeOracle(Oracle):
    """The oracle's chain as first path, and from its first wrong token on a side branch that is right."""

    def propose(self, next_token_id, max_draft_tokens):
        path = self.chain((max_draft_tokens + 1) // 2)
        place = len(self.token_ids) + 1
        ahead = np.array(self.text[place : place + len(path)], dtype=np.int64)
        wrong = np.flatnonzero(path != ahead)
        fork = wrong[0] if len(wrong) else 0
        right = ahead[fork:] if len(wrong) else self.other(ahead)
        branch = right[: max_draft_tokens - len(path)]
        parents = [
            *range(ROOT, len(path) - 1),
            *([fork - 1] if len(branch) else []),
            *range(len(path), len(path) + len(branch) - 1),
        ]
        return Proposal(token_ids=np.concatenate([path, branch]), parents=np.array(parents, dtype=np.int64))


@pytest.fixture(scope="session")
def drafters():
    """The drafter classes of this file."""
    return SimpleNamespace(Recorder=Recorder, RandomChains=RandomChains, Oracle=Oracle, TreeOracle=TreeOracle)


@pytest.fixture(scope="session")
def native_graphs() -> ModuleType:
    """The module of that name: small native graphs, and what a manifest says of them."""
    pytest.importorskip("onnx", reason="graphs are written with onnx, which the [export] extra installs")
    spec = importlib.util.spec_from_file_location("native_graphs", Path(__file__).with_name("native_graphs.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["native_graphs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def without_library(monkeypatch):
    """As on a machine without the library of native operators."""
    monkeypatch.setattr(kernels, "is_available", lambda: False)
    monkeypatch.setattr(kernels, "why_missing", lambda: "the library is missing; run: build it")


@pytest.fixture
def load(tiny_bundle):
    """`load(drafter="auto", bundle=..., ...)`: the tiny bundle loaded afresh, one thread."""

    def load_tiny(drafter="auto", bundle=tiny_bundle, **settings):
        return load_model(bundle, drafter=drafter, threads=1, **settings)

    return load_tiny


@pytest.fixture
def target_of():
    """`target_of(bundle, ...)`: a target alone."""

    def open_target(directory, **settings):
        bundle = Bundle(directory)
        entry = bundle.manifest.target
        return Target(bundle.path(entry.graph), entry, **{"threads": 1, **settings})

    return open_target
