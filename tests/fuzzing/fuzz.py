"""Coverage-guided fuzzing of what reads a bundle: one target a process, run by `record_run.py`.

    python tests/fuzzing/fuzz.py template FOLDER tests/fuzzing/corpus/template -max_total_time=300

Inputs are libFuzzer's, all options too. A finding is an error that is no `DovetailError`, a broken promise, or a run
over a limit of time or memory.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np
import onnxruntime

# An editable install's own loader hides the code from the instrumentation, so modules come from their folder.
sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
sys.path.insert(0, str(Path(__file__).parents[2] / "runtime"))

with atheris.instrument_imports(include=["dovetail_ort_runtime", "jinja2", "operator_inputs"]):
    from operator_inputs import operators

    from dovetail_ort_runtime import kernels
    from dovetail_ort_runtime.bundle.bundle import Bundle
    from dovetail_ort_runtime.bundle.graph_check import DOMAINS, check_graph
    from dovetail_ort_runtime.bundle.manifest import Manifest
    from dovetail_ort_runtime.engine.session import open_session
    from dovetail_ort_runtime.errors import BundleError, DovetailError
    from dovetail_ort_runtime.text import template_budget
    from dovetail_ort_runtime.text.chat_template import ChatTemplate
    from dovetail_ort_runtime.text.tokenizer import Tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why is the sky <blue>?\n"},
    {"role": "assistant", "content": "It scatters.", "tool_calls": [{"name": "look", "arguments": {"up": True}}]},
    {"role": "user", "content": "Größe 日本"},
]
WEIGHT_FILE_BYTES = 64
_folder = Path(tempfile.mkdtemp(prefix="fuzz-"))


def manifest(data: bytes) -> None:
    """A bundle's manifest, beside files that a bundle may have."""
    (_folder / "manifest.json").write_bytes(data)
    try:
        found = Bundle(_folder, verify="none").manifest
    except DovetailError:
        return
    assert Manifest.from_json(found.to_json()).to_json() == found.to_json()
    for entry in found.files:
        assert (_folder / entry.path).resolve().is_relative_to(_folder.resolve())


def template(data: bytes) -> None:
    """A chat template and what it makes of a conversation."""
    try:
        text = ChatTemplate(data.decode("utf-8", "ignore"), {"bos_token": "<s>"}).render(MESSAGES)
    except DovetailError:
        return
    text.encode("utf-8", "surrogatepass")
    assert len(text) < 2 * template_budget.OUTPUT


def tokenizer(data: bytes) -> None:
    """A tokenizer file, and a text to and fro."""
    path = _folder / "tokenizer.json"
    path.write_bytes(data)
    try:
        read = Tokenizer(path)
        read.decode(read.encode("A dove's tail: 12 pins, <s>日本", add_special_tokens=True))
        assert read.vocabulary_size >= 0
    except DovetailError:
        return


def graph(data: bytes) -> None:
    """A graph; onnx reads what is let through, and must find nothing in it that should not be there.

    One with native operators is then opened and run, which may fail in words.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = _folder / "graph.onnx"
    path.write_bytes(data)
    try:
        checked = check_graph(path, {"weights": WEIGHT_FILE_BYTES})
    except BundleError:
        return
    if checked.operators is not None and kernels.is_available():
        _run_native(path)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return
    assert not model.functions
    assert not model.training_info
    assert not model.graph.sparse_initializer
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        assert node.domain in DOMAINS
        for attribute in node.attribute:
            assert not attribute.HasField("g")
            assert not attribute.HasField("sparse_tensor")
            assert not [*attribute.graphs, *attribute.sparse_tensors]
            tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
    for tensor in tensors:
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert bool(place) == (tensor.data_location == onnx.TensorProto.EXTERNAL) or place
        if place or tensor.data_location:
            assert place["location"] == "weights"
            assert int(place["offset"]) + int(place["length"]) <= WEIGHT_FILE_BYTES


def _run_native(path: Path) -> None:
    """Two rows after one, with the inputs of `corpus/graph/native.onnx`."""
    inputs = {
        "ids": np.array([[1, 2]]),
        "p": np.array([[1, 2]]),
        "pk": np.zeros((1, 1, 1, 16, 64), np.float16),
        "pv": np.zeros((1, 1, 64, 16), np.float16),
        "l": np.array([1]),
        "q": np.zeros(2, np.int64),
        "o": np.array([1, 2]),
        "a": np.zeros((2, 0), np.int64),
    }
    try:
        session = open_session(path, 1)
    except DovetailError:
        return
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
    with contextlib.suppress(Exception):  # onnxruntime raises its own classes straight from C++
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("y")
        binding.bind_ortvalue_output("k", values["pk"])
        binding.bind_ortvalue_output("v", values["pv"])
        session.run_with_iobinding(binding)


TARGETS = {"manifest": manifest, "template": template, "tokenizer": tokenizer, "graph": graph, "operators": operators}


def main() -> None:
    """Fuzz the target that the first argument names; the others are libFuzzer's."""
    template_budget.SECONDS = 0.5  # the same way out, sooner
    target = TARGETS[sys.argv.pop(1)]
    seeds = Path(__file__).parent / "corpus"
    for name in ("tokenizer.json", "chat_template.jinja", "model.onnx"):
        source = {"tokenizer.json": "tokenizer/bpe.json", "chat_template.jinja": "template/chatml.jinja"}
        (_folder / name).write_bytes((seeds / source.get(name, "graph/flat.onnx")).read_bytes())
    (_folder / "weights").write_bytes(bytes(WEIGHT_FILE_BYTES))
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
