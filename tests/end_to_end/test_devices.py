"""Drafter and first blocks on the device that CUDA users have, and on the CPU, where the same code can be met."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import dovetail_ort
from dovetail_ort import ChainShape, GenerationOptions, SamplingOptions
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.devices import has_cuda
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.target import Target

PROMPT = np.random.default_rng(0).integers(3, 384, 24).tolist() * 2
needs_cuda = pytest.mark.skipif(not has_cuda(), reason="needs a GPU and onnxruntime-gpu with its CUDA libraries")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])


@pytest.fixture(scope="module")
def drafting(tiny_bundle, tiny_head, tmp_path_factory):
    """A bundle whose drafter is in half precision, as CUDA's attention kernel asks for."""
    from dovetail_ort_export.attach import attach_drafter

    copy = tmp_path_factory.mktemp("half") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    attach_drafter(copy, tiny_head(tiny_bundle), precision="fp16")
    return copy


@pytest.fixture(scope="module")
def cut(tiny_source, tmp_path_factory):
    """A target in two: two blocks in half precision, two in INT8."""
    from dovetail_ort_export import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("cut") / "bundle"
    options = ExportOptions(gpu_layers=2, format="portable")
    export_bundle(str(tiny_source("llama", num_hidden_layers=4)), out, options)
    return out


def answers(model, **options):
    """Token ids of the baseline's answer and of a speculative one."""
    return [
        model.generate(
            PROMPT,
            GenerationOptions(max_new_tokens=60, sampling=SamplingOptions(), max_draft_tokens=number, **options),
        ).token_ids
        for number in (0, 8)
    ]


@on_each_device
def test_a_drafter_on_the_device_leaves_the_answer_as_it_is(device, drafting):
    model = dovetail_ort.load(
        drafting, threads=1, drafter="dgf", drafter_device=device, draft_shape=ChainShape.fixed(4)
    )
    baseline, speculative = answers(model)
    assert speculative == baseline
    drafter = next(report for report in model.sessions() if report.name == "drafter")
    assert drafter.device == device
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    assert drafter.nodes[provider] > 5
    assert drafter.cache_bytes > 0
    if device == "cuda":
        assert drafter.vram_bytes > drafter.weight_bytes + drafter.cache_bytes


@needs_cuda
def test_cuda_drafts_what_the_cpu_drafts(drafting):
    bundle = Bundle(drafting)
    entry = bundle.manifest.drafter
    random = np.random.default_rng(3)
    features = random.normal(size=(12, entry.hidden_size)).astype(np.float32)
    token_ids = random.integers(3, 384, 12)

    def rows(where):
        model = DraftGraph(bundle.path(entry.graph), entry, capacity=64, threads=1, device=where)
        found = []
        for start in (0, 5):  # the second forward reads what the first one left in the cache
            size = 5 if start == 0 else 7
            part = model.forward(
                features[start : start + size],
                token_ids[start : start + size],
                np.arange(start, start + size),
                num_scored=size,
                num_candidates=4,
            )
            model.cache.keep(range(size))
            found.append((part.hidden_states.copy(), part.log_probabilities.copy()))
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    for found, expected in zip(rows("cuda"), rows("cpu"), strict=True):
        # Three digits and a half each in weights, activations and cache, over a handful of products.
        assert np.linalg.norm(found - expected) <= 0.01 * np.linalg.norm(expected)


@on_each_device
def test_first_blocks_on_the_device_leave_the_answer_as_it_is(device, cut):
    model = dovetail_ort.load(cut, threads=1, target_layers_on_gpu=2 if device == "cuda" else 0)
    front = model.sessions()[0]
    assert (front.name, front.device) == ("target, first blocks", device)
    baseline, speculative = answers(model)
    assert model.exact or device == "cuda"  # whether a GPU's rows stand alone, each load finds out
    assert speculative == baseline or not model.exact


@needs_cuda
def test_first_blocks_on_cuda_say_what_the_cpus_say(cut):
    bundle = Bundle(cut)
    entry = bundle.manifest.target

    def states(where):
        """Of the last 6 of 48 tokens, in front of the blocks in INT8, whose rounding enlarges each difference."""
        target = Target(bundle.path(entry.graph), entry, threads=1, first_blocks_device=where)
        target.read(np.array(PROMPT), rows=7)
        return target.first_blocks.block_states[:6]

    expected = states("cpu")
    # As of the drafter: half precision has three digits and a half, over two blocks of products.
    assert np.linalg.norm(states("cuda") - expected) <= 0.01 * np.linalg.norm(expected)
