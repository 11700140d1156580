"""One side of the comparison: it reads requests from standard input, one JSON line each, and answers with JSON lines.

    python worker.py BUNDLE

It runs in the environment of either commit, so it imports no other module of the benchmarks, and `find`s what it uses
of the project. `REQUESTS` are the requests that it knows.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import pkgutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Tokens of the last round that a drafter reads before it drafts.
NUM_UNREAD: Final = 2
# What is used of the project: where it is today, and where it was at f2faf98.
PLACES: Final = {
    "Bundle": ("dovetail_ort_runtime.bundle.bundle:Bundle", "dovetail_ort_runtime.bundle:Bundle"),
    "Target": ("dovetail_ort_runtime.engine.target:Target", "dovetail_ort_runtime.target:Target"),
    "read_text": (
        "dovetail_ort_runtime.engine.target:Target.read",
        "dovetail_ort_runtime.row_invariance:run_in_chunks",
    ),
    "chain_of_rows": (
        "dovetail_ort_runtime.engine.forward_rows:ForwardRows.chain",
        "dovetail_ort_runtime.verification_input:VerificationInput.prompt",
    ),
    "DraftGraph": (
        "dovetail_ort_runtime.engine.draft_graph:DraftGraph",
        "dovetail_ort_runtime.draft_model:DraftModel",
    ),
    "FeatureDrafter": (
        "dovetail_ort_runtime.drafting.feature_drafter:FeatureDrafter",
        "dovetail_ort_runtime.feature_drafter:FeatureDrafter",
    ),
    "load_training_prompts": (
        "dovetail_ort.commands.train:load_training_prompts",
        "dovetail_ort.suites:load_training_prompts",
    ),
    "TrainingOptions": (
        "dovetail_ort_export.training.options:TrainingOptions",
        "dovetail_ort_export.training.training_options:TrainingOptions",
    ),
    "TrainingPrompts": (
        "dovetail_ort_export.training.options:TrainingPrompts",
        "dovetail_ort_export.training.training_options:TrainingPrompts",
    ),
    "write_text": (
        "dovetail_ort_export.training.text_plan:write_text",
        "dovetail_ort_export.training.written_text:write_text",
    ),
}


def find(name: str) -> Any:
    """What `PLACES` calls `name`, imported from where the commit of this environment has it."""
    today, before = PLACES[name]
    try:
        return pkgutil.resolve_name(today)
    except (ModuleNotFoundError, AttributeError):
        return pkgutil.resolve_name(before)


class Worker:
    """What was opened so far of a bundle."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        self.target: Any = None
        self.model: Any = None
        self.drafter: Any = None
        self.weights: list[NDArray[np.uint64]] = []

    def import_onnxruntime(self) -> dict[str, Any]:
        """Resident bytes of a process that has imported ONNX Runtime and little else."""
        import onnxruntime

        return {"resident_bytes": _resident_bytes(), "onnxruntime": onnxruntime.__version__}

    def import_runtime(self) -> dict[str, Any]:
        """Import what a load needs, so that the time of a load holds no import."""
        import dovetail_ort

        return {"version": importlib.metadata.version(dovetail_ort.__name__.replace("_", "-"))}

    def open_target(self, max_context: int, num_past: int) -> dict[str, Any]:
        """Open the target and read `num_past` tokens."""
        bundle = find("Bundle")(self.bundle)
        entry = bundle.manifest.target
        self.target = find("Target")(bundle.path(entry.graph), entry, max_context=max_context)
        tokens = np.arange(num_past) % entry.vocabulary_size
        find("read_text")(self.target, tokens, rows=self.target.max_rows)
        return {"threads": self.target.threads, "weight_bytes": self.target.weight_bytes, "graph": entry.graph}

    def forward(self, rows: int) -> dict[str, Any]:
        """Milliseconds of a forward over new tokens after those that were read; all of them are scored.

        It is the second of two: the first one brings threads and caches back from the other side.
        """
        tokens = find("chain_of_rows")(np.arange(rows) % self.target.vocabulary_size, self.target.cache.length)
        self.target.forward(tokens)
        started = time.perf_counter()
        self.target.forward(tokens)
        return {"ms": _ms_since(started)}

    def read_weights(self) -> dict[str, Any]:
        """Milliseconds that a plain sum over the target's weights takes with as many threads, the second of two."""
        if not self.weights:
            self.weights = self._weights()
        with ThreadPoolExecutor(len(self.weights)) as executor:
            list(executor.map(np.bitwise_or.reduce, self.weights))
            started = time.perf_counter()
            list(executor.map(np.bitwise_or.reduce, self.weights))
            return {"ms": _ms_since(started), "bytes": sum(part.nbytes for part in self.weights)}

    def _weights(self) -> list[NDArray[np.uint64]]:
        """The file of weights beside the target's graph, in as many parts as there are threads."""
        bundle = find("Bundle")(self.bundle)
        graph = bundle.path(bundle.manifest.target.graph)
        (path,) = (path for path in graph.parent.glob(f"{graph.name}*") if path != graph)
        content = np.fromfile(path, dtype=np.uint64, count=path.stat().st_size // 8)
        return np.array_split(content, self.target.threads)

    def open_drafter(self, max_context: int, num_past: int) -> dict[str, Any]:
        """Open the bundle's drafter beside the target, with `num_past` tokens of context."""
        from dovetail_ort_runtime import ChainShape, SamplingOptions

        bundle = find("Bundle")(self.bundle)
        entry = bundle.manifest.drafter
        assert entry is not None, "the bundle has no drafter"
        path = bundle.path(entry.graph)
        model = find("DraftGraph")(path, entry, capacity=max_context, threads=self.target.threads)
        self.drafter = find("FeatureDrafter")(model)
        is_f2faf98 = "exact" in inspect.signature(self.drafter.begin).parameters
        self.drafter.begin(SamplingOptions(), **({"exact": True} if is_f2faf98 else {}))
        self._observe(num_past)
        self.drafter.draft(0, 1, ChainShape.fixed(1))
        return {"weight_bytes": model.weight_bytes}

    def draft(self, num_past: int, tokens: int) -> dict[str, Any]:
        """Milliseconds of drafting a chain while the tokens of the round before are unread; the second of two."""
        from dovetail_ort_runtime import ChainShape

        ms = 0.0
        for _ in range(2):
            self.drafter.rewind(num_past)
            self._observe(NUM_UNREAD)
            started = time.perf_counter()
            proposal = self.drafter.draft(0, tokens, ChainShape.fixed(tokens))
            ms = _ms_since(started)
            assert len(proposal) == tokens, "a chain of fixed length is drafted to its end"
        return {"ms": ms}

    def _observe(self, num_tokens: int) -> None:
        random = np.random.default_rng(num_tokens)
        states = random.normal(size=(num_tokens, self.target.hidden_size)).astype(np.float32)
        self.drafter.observe(np.arange(num_tokens), states)

    def load(self, tune: bool) -> dict[str, Any]:
        """Load the bundle as an application does; seconds."""
        import dovetail_ort

        started = time.perf_counter()
        self.model = dovetail_ort.load(self.bundle, tune=tune)
        seconds = time.perf_counter() - started
        sessions = [
            {"name": one.name, "weight_bytes": one.weight_bytes, "cache_bytes": one.cache_bytes}
            for one in self.model.sessions()
        ]
        return {"seconds": seconds, "sessions": sessions, "exact": self.model.exact}

    def tokenize(self, text: str) -> dict[str, Any]:
        """Token ids of a text, nothing added."""
        return {"token_ids": find("Bundle")(self.bundle).tokenizer().encode(text, add_special_tokens=False)}

    def generate(self, prompt: Any, max_new_tokens: int, speculative: bool) -> dict[str, Any]:
        """Answer token ids or messages greedily, nothing reused."""
        from dovetail_ort_runtime import GenerationOptions, SamplingOptions

        options = GenerationOptions(max_new_tokens=max_new_tokens, sampling=SamplingOptions())
        if not speculative:
            options = replace(options, max_draft_tokens=0)
        self.model.reset()
        started = time.perf_counter()
        answer = self.model.generate(prompt, options)
        seconds = time.perf_counter() - started
        found = answer.statistics
        return {
            "seconds": seconds,
            "token_ids": list(answer.token_ids),
            "prefill_seconds": found.prefill_seconds,
            "decode_seconds": found.decode_seconds,
            "rounds": found.rounds,
        }

    def memory(self) -> dict[str, Any]:
        """Resident bytes of this process."""
        return {"resident_bytes": _resident_bytes()}

    def write_text(self, directory: str, prompts: str | None, num_answer_tokens: int, seed: int) -> dict[str, Any]:
        """Write training text into a new directory; answer tokens and seconds, the loading of the graph included."""
        options = find("TrainingOptions")(num_answer_tokens=num_answer_tokens, seed=seed)
        given = find("TrainingPrompts")() if prompts is None else find("load_training_prompts")(Path(prompts))
        write_text = find("write_text")
        bundle = find("Bundle")(self.bundle)
        started = time.perf_counter()
        shards = write_text(bundle, Path(directory), options, given)
        seconds = time.perf_counter() - started
        found = list(shards.conversations())
        return {
            "seconds": seconds,
            "answer_tokens": sum(item.answer_length for item in found),
            "conversations": len(found),
        }


REQUESTS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    function.__name__: function
    for function in (
        Worker.import_onnxruntime,
        Worker.import_runtime,
        Worker.open_target,
        Worker.forward,
        Worker.read_weights,
        Worker.open_drafter,
        Worker.draft,
        Worker.load,
        Worker.tokenize,
        Worker.generate,
        Worker.memory,
        Worker.write_text,
    )
}


def _ms_since(started: float) -> float:
    return 1e3 * (time.perf_counter() - started)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status must have VmRSS; run on Linux")


def main(bundle: str) -> None:
    """Answer requests until standard input ends."""
    worker = Worker(bundle)
    for line in sys.stdin:
        request = json.loads(line)
        answer = REQUESTS[request.pop("do")](worker, **request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
