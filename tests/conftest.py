"""Tiny random models and the bundle made from one; torch and transformers are imported when a fixture needs them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dovetail_ort_runtime.bundle.bundle import Bundle

# A forward takes what the machine has left for it, and a fixture is built once for all examples.
settings.register_profile(
    "dovetail", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
settings.load_profile("dovetail")

# A machine may lack these parts and no others where DOVETAIL_REQUIRE_PARTS is set: a skipped test that wants something
# else fails the run.
PARTS_THAT_MAY_BE_MISSING = ("a GPU", "instruction")

TinySource = Callable[..., Path]

VOCABULARY_SIZE = 384
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SENTENCES = (
    "A dovetail joint has tails and pins, and the tails hold the pins without a nail.",
    "The small model proposes a few tokens; the large model reads them all in one pass.",
    "Größe, naïve café, 日本語 and 3 € need more than one byte a character.",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DIMENSIONS: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    # Ten times the usual: with flat logits a random model repeats one token for ever, and tests would see only that.
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skipped tests, and those that should not have been skipped."""
    reasons = _skip_reasons(terminalreporter)
    surprising = [reason for reason in reasons if not any(part in reason for part in PARTS_THAT_MAY_BE_MISSING)]
    terminalreporter.section("skipped")
    terminalreporter.line(
        f"{len(reasons) - len(surprising)} for want of a GPU or of a processor's instructions, "
        f"{len(surprising)} for another reason"
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where every part must be there and a test was skipped for want of one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("DOVETAIL_REQUIRE_PARTS") or reporter is None:
        return
    for reason in _skip_reasons(reporter):
        if not any(part in reason for part in PARTS_THAT_MAY_BE_MISSING):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _skip_reasons(reporter: pytest.TerminalReporter) -> list[str]:
    return [str(report.longrepr[-1]) for report in reporter.stats.get("skipped", [])]


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """Torch with one thread: onnxruntime has the other core."""
    import torch

    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="session")
def tiny_model(torch: ModuleType) -> Callable[..., Any]:
    """`tiny_model(family, **settings)`: a random transformers causal LM in evaluation mode.

    Every weight is drawn, norms and biases included: ones and zeros would hide a norm without its weight or a bias that
    is never added.
    """
    import transformers

    def make(family: str, **settings: Any) -> Any:
        config = transformers.AutoConfig.for_model(family, **{**DIMENSIONS, **settings})
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.uniform_(-0.5, 0.5) if name.endswith("bias") else parameter.uniform_(0.5, 1.5)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any]) -> TinySource:
    """`tiny_source(family, dtype=None, **settings)`: a Hugging Face directory with a random model of that family.

    Safetensors, a byte-level BPE tokenizer, a ChatML template; `settings` go into its configuration.
    """

    def make(family: str, dtype: Any = None, **settings: Any) -> Path:
        directory = tmp_path_factory.mktemp(family)
        model = tiny_model(family, **settings)
        (model if dtype is None else model.to(dtype)).save_pretrained(directory)
        _write_tokenizer(directory)
        generation = {"bos_token_id": 0, "eos_token_id": 2, "do_sample": False}
        (directory / "generation_config.json").write_text(json.dumps(generation))
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_llama(tiny_source: TinySource) -> Path:
    """Hugging Face directory of the Llama that `tiny_bundle` and `tiny_bundle_fp32` are made from."""
    return tiny_source("llama")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Native bundle of a tiny Llama, 512 positions; shared by all: copy it before changing a file."""
    return _exported(tiny_llama, tmp_path_factory.mktemp("native"), format="native")


@pytest.fixture(scope="session")
def tiny_bundle_portable(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model for a stock ONNX Runtime: INT8, scales by block."""
    return _exported(tiny_llama, tmp_path_factory.mktemp("portable"), format="portable")


@pytest.fixture(scope="session")
def tiny_bundle_both(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a graph of each of these formats."""
    return _exported(tiny_llama, tmp_path_factory.mktemp("both"), format="both")


@pytest.fixture(scope="session")
def tiny_cut_bundle_native(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native target whole, and in two graphs of a block each, the first in fp16."""
    return _exported(tiny_llama, tmp_path_factory.mktemp("cut-native"), format="native", gpu_layers=1)


@pytest.fixture(scope="session")
def tiny_cut_bundle(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in fp32 in two graphs of a block each."""
    return _exported(tiny_llama, tmp_path_factory.mktemp("cut"), precision="fp32", gpu_layers=1)


@pytest.fixture(scope="session")
def tiny_bundle_fp32(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in fp32."""
    return _exported(tiny_llama, tmp_path_factory.mktemp("fp32"), precision="fp32")


@pytest.fixture(scope="session")
def tiny_head(torch: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_head(bundle, **config)`: directory of a random, untrained draft head for a bundle's target."""
    from dovetail_ort_export.heads.config import HeadConfig
    from dovetail_ort_export.heads.draft_head import DraftHead
    from dovetail_ort_export.training.head_files import HeadRecord, TrainingPoint, save_head
    from dovetail_ort_export.training.options import TrainingOptions

    def make(bundle: Path, target_sha256: str | None = None, **config: Any) -> Path:
        entry = Bundle(bundle).manifest.target
        torch.manual_seed(5)
        dimensions = {
            "fusion": "gating",
            "num_blocks": 2,
            "hidden_size": entry.hidden_size,
            "num_heads": entry.num_heads,
            "num_kv_heads": entry.num_kv_heads,
            "head_size": entry.head_size,
            "intermediate_size": entry.intermediate_size,
            "norm_epsilon": 1e-5,
        }
        head = DraftHead(HeadConfig(**{**dimensions, **config}))
        record = HeadRecord(
            target_sha256=target_sha256 or str(entry.weights_sha256),
            config=head.config,
            options=TrainingOptions(),
            num_conversations=1,
            num_answer_tokens=1,
            num_overlapping=None,
            training_seconds=0.0,
            machine="none",
            packages={},
            history=(TrainingPoint(step=1, loss=1.0, acceptance=(0.0,), accepted_length=1.0),),
        )
        directory = tmp_path_factory.mktemp("head")
        save_head(head, np.arange(0, entry.vocabulary_size, 2), record, directory)
        return directory

    return make


@pytest.fixture(scope="session")
def published_heads() -> ModuleType:
    """Random heads in the dialects of their publishers, and an oracle of what they draft."""
    return _module(Path(__file__).parent / "published_heads.py")


@pytest.fixture(scope="session")
def with_drafter(tiny_head: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`with_drafter(bundle)`: a copy of a bundle with a random drafter of even tokens attached."""
    from dovetail_ort_export.attach import attach_drafter

    def make(bundle: Path) -> Path:
        copy = tmp_path_factory.mktemp("drafting") / "bundle"
        shutil.copytree(bundle, copy)
        attach_drafter(copy, tiny_head(bundle))
        return copy

    return make


@pytest.fixture(scope="session")
def tiny_drafting_bundle(tiny_bundle: Path, with_drafter: Callable[[Path], Path]) -> Path:
    """`tiny_bundle` with a random drafter."""
    return with_drafter(tiny_bundle)


@pytest.fixture(scope="session")
def tiny_drafting_bundle_portable(tiny_bundle_portable: Path, with_drafter: Callable[[Path], Path]) -> Path:
    """`tiny_bundle_portable` with a random drafter."""
    return with_drafter(tiny_bundle_portable)


@pytest.fixture(scope="session")
def tiny_drafting_bundle_fp32(tiny_bundle_fp32: Path, with_drafter: Callable[[Path], Path]) -> Path:
    """`tiny_bundle_fp32` with a random drafter."""
    return with_drafter(tiny_bundle_fp32)


@pytest.fixture(scope="session")
def with_taps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`with_taps(bundle)`: a copy of a drafting bundle whose drafter reads random features of three levels instead."""
    from dovetail_ort_export.heads.taps import Taps
    from dovetail_ort_export.writing.bundle_output import write_manifest
    from dovetail_ort_export.writing.taps import write_taps

    def make(drafting_bundle: Path) -> Path:
        copy = tmp_path_factory.mktemp("tapped") / "bundle"
        shutil.copytree(drafting_bundle, copy)
        bundle = Bundle(copy)
        manifest = bundle.manifest
        assert manifest.drafter is not None
        width = manifest.target.hidden_size
        weight = np.random.default_rng(0).normal(size=(width, 3 * width)).astype(np.float32) / 16
        taps = write_taps(bundle, copy, Taps(levels=(0, 1, 2), weight=weight, precision="int8"))
        (copy / "manifest.json").unlink()  # it is none of the files that it names
        write_manifest(replace(manifest, drafter=replace(manifest.drafter, taps=taps)), copy)
        return copy

    return make


@pytest.fixture(scope="session")
def tiny_tapped_bundle(tiny_drafting_bundle: Path, with_taps: Callable[[Path], Path]) -> Path:
    """`tiny_drafting_bundle` with taps."""
    return with_taps(tiny_drafting_bundle)


@pytest.fixture(scope="session")
def tiny_tapped_bundle_portable(tiny_drafting_bundle_portable: Path, with_taps: Callable[[Path], Path]) -> Path:
    """`tiny_drafting_bundle_portable` with taps."""
    return with_taps(tiny_drafting_bundle_portable)


@pytest.fixture(scope="session")
def in_hub_cache() -> Callable[..., Path]:
    """`in_hub_cache(bundle, cache)`: the snapshot that a bundle is as me/tiny in a cache, laid out as huggingface_hub
    does; with `shared` its graphs and weights lie in the store that all repositories share.
    """
    return _put_into_hub_cache


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running `StandIn` of the hub that the environment names, with an empty cache and the owner's token."""
    from huggingface_hub import constants, file_download

    stand_in = _module(Path(__file__).parent / "hub" / "stand_in.py")
    started = stand_in.StandIn()
    for name, value in {
        "HF_ENDPOINT": started.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN": stand_in.OWNER_TOKEN,
    }.items():
        monkeypatch.setenv(name, value)
    # These were read when the library was imported, perhaps by another test.
    monkeypatch.setattr(constants, "ENDPOINT", started.endpoint)
    for module in (constants, file_download):
        template = started.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has plain large-file storage
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    yield started
    started.close()


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def _put_into_hub_cache(
    bundle: Path,
    cache: Path,
    *,
    commit: str = "0123456789abcdef0123456789abcdef01234567",
    ref: str = "main",
    shared: bool = False,
    folder: str = "",
) -> Path:
    repository = cache / "models--me--tiny"
    snapshot = repository / "snapshots" / commit
    for place in (repository / "blobs", snapshot / folder, (repository / "refs" / ref).parent):
        place.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / ref).write_text(commit)
    for file in bundle.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        if not blob.exists():
            content = blob
            if shared and file.name.startswith("model"):
                content = _shared_content(cache, blob.name)
                blob.symlink_to(f"../../blobs/{blob.name[:2]}/{blob.name}")
            shutil.copyfile(file, content)
        link = snapshot / folder / file.name
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def _shared_content(cache: Path, digest: str) -> Path:
    store = cache / "blobs"
    (store / digest[:2]).mkdir(parents=True, exist_ok=True)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    return store / digest[:2] / digest


def _exported(source: Path, folder: Path, **options: Any) -> Path:
    from dovetail_ort_export import ExportOptions, export_bundle

    return Path(export_bundle(str(source), folder / "bundle", ExportOptions(**options)).directory)


def _write_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[2],
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(autouse=True, scope="session")
def _own_cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Times measured on tiny models stay out of the user's cache, and the user's times out of the tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


UNLOADING = """
import json, sys
import dovetail_ort
from dovetail_ort import GenerationOptions

def resident_kilobytes():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

memory = []
for _ in range(int(sys.argv[2])):
    with dovetail_ort.load(sys.argv[1]) as model:
        model.generate("Why is the sky blue?", GenerationOptions(max_new_tokens=24))
    memory.append(resident_kilobytes())
print(json.dumps(memory))
"""


@pytest.fixture
def unloaded_memory() -> Callable[..., list[int]]:
    """`unloaded_memory(bundle, times=n)`: resident kilobytes of a process after each time it had a bundle loaded."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell resident memory in /proc")

    def measure(bundle: Path, *, times: int) -> list[int]:
        command = [sys.executable, "-c", UNLOADING, str(bundle), str(times)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found: list[int] = json.loads(output)
        return found

    return measure


@pytest.fixture
def damaged(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))


@pytest.fixture
def change_manifest() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """`change_manifest(bundle, change)`: write a bundle's manifest as `change` leaves it."""

    def write(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return write


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused(*argv)`: the one line that a refused command prints."""
    from dovetail_ort.cli.main import main

    def run(*argv: object) -> str:
        status = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        assert err.startswith("dovetail-ort")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err

    return run


@contextmanager
def _no_file_over_a_kilobyte() -> Iterator[None]:
    import resource  # Windows has none

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """While it is entered, files cannot grow beyond a kilobyte: the system refuses the rest, as on a full disk.

    It is for a test to leave before it ends: the limit holds for a file that pytest's own output goes to as well.
    """
    return _no_file_over_a_kilobyte
