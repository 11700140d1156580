"""A bundle on the oldest ONNX Runtime that is supported, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail_ort_runtime.machine.onnx_runtime import OLDEST_ONNXRUNTIME

OLDEST = ".".join(map(str, OLDEST_ONNXRUNTIME))
PROMPTS = ("A dovetail joint", "def fibonacci(n):\n    return fibonacci(n - 1) + fib")
SCRIPT = """
import json, sys
import numpy as np
import onnxruntime
from dovetail_ort_runtime import Bundle, GenerationOptions, load_model
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.engine.forward_rows import ForwardRows

directory, prompts = sys.argv[1], json.loads(sys.argv[2])

def answers(max_draft_tokens):
    model = load_model(directory, threads=1)
    options = GenerationOptions(max_new_tokens=60, max_draft_tokens=max_draft_tokens)
    return [model.generate(prompt, options).token_ids for prompt in prompts]

def logits(rows):
    bundle = Bundle(directory)
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, threads=1)
    tokens, found = np.arange(3, 123), []
    for start in range(0, 120, rows):
        chunk = tokens[start : start + rows]
        found.append(target.forward(ForwardRows.chain(chunk, start)).logits.copy())
        target.cache.keep(range(len(chunk)))
    return np.concatenate(found)

pairs = logits(2)
print(json.dumps({
    "version": onnxruntime.__version__,
    "baseline": answers(0),
    "speculative": answers(8),
    "differing": [rows for rows in (1, 3, 5, 8, 16, 64) if not np.array_equal(logits(rows), pairs)],
}))
"""


@pytest.fixture(scope="module")
def oldest_onnxruntime():
    """A folder with the oldest supported onnxruntime, kept for the next run."""
    folder = Path(__file__).parents[2] / "build" / f"onnxruntime-{OLDEST}"
    if not folder.is_dir():
        scratch = folder.with_name(f"{folder.name}.partial")
        scratch.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", scratch]
        done = subprocess.run([*command, f"onnxruntime=={OLDEST}.*"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"onnxruntime {OLDEST} must be installable for this test, got: {done.stderr.strip()[-300:]}")
        scratch.rename(folder)
    return folder


def run(bundle, folder=None):
    """What the script finds, with the packages in `folder` before all others."""
    environment = dict(os.environ) if folder is None else {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", SCRIPT, str(bundle), json.dumps(PROMPTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_bundle_portable", "tiny_drafting_bundle"])
def bundle(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def on_oldest(bundle, oldest_onnxruntime):
    found = run(bundle, oldest_onnxruntime)
    assert found["version"].startswith(f"{OLDEST}.")
    return found


def test_a_bundle_generates_the_same_greedy_tokens_on_the_oldest_onnxruntime(bundle, on_oldest):
    assert on_oldest["baseline"] == run(bundle)["baseline"]


def test_speculative_greedy_equals_the_baseline_on_the_oldest_onnxruntime(on_oldest):
    assert on_oldest["speculative"] == on_oldest["baseline"]
    assert [len(answer) for answer in on_oldest["baseline"]] == [60, 60]


def test_a_row_has_the_same_bits_in_any_pass_on_the_oldest_onnxruntime(on_oldest):
    assert on_oldest["differing"] == []
