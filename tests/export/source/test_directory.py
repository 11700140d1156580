"""A directory as a checkpoint: which files are read, what is in them, and how the model is called."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dovetail_ort_export.source.directory import model_name, read_directory, read_licence
from dovetail_ort_export.source.weight_check import check_finite, check_weights
from dovetail_ort_runtime.errors import SourceError

Change = Callable[[Path], None]


@pytest.fixture
def source(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of a tiny Llama's directory, to be changed."""
    return shutil.copytree(tiny_llama, tmp_path / "tiny")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    # Copies, as tests write over the file that these would be views of.
    return {name: tensor.clone() for name, tensor in load_file(path / "model.safetensors").items()}


def in_parts(path: Path, prefix: str = "model") -> list[Path]:
    """Split the weights into two files with an index, as transformers does with large models."""
    weights = weights_of(path)
    (path / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"00001": names[::2], "00002": names[1::2]}
    files = {number: path / f"{prefix}-{number}-of-00002.safetensors" for number in halves}
    for number, file in files.items():
        save_file({name: weights[name] for name in halves[number]}, file)
    weight_map = {name: files[number].name for number, half in halves.items() for name in half}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return list(files.values())


def assert_holds(path: Path, weights: dict[str, torch.Tensor]) -> None:
    tensors = read_directory(path).tensors
    assert tensors.keys() == weights.keys()
    for name, tensor in tensors.items():
        assert (tensor.shape, tensor.dtype) == (tuple(weights[name].shape), weights[name].dtype)
        assert torch.equal(tensor.read(), weights[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_one_file_are_what_safetensors_reads(dtype: torch.dtype, source: Path):
    weights = {name: tensor.to(dtype) for name, tensor in weights_of(source).items()}
    save_file(weights, source / "model.safetensors")

    assert_holds(source, weights)


def test_a_tensor_is_a_view_of_the_mapped_file(source: Path):
    tensor = read_directory(source).tensors["model.norm.weight"]

    assert tensor.read().data_ptr() == tensor.read().data_ptr()


def test_tensors_in_parts_are_read_by_the_index(source: Path):
    weights = weights_of(source)
    in_parts(source)

    assert_holds(source, weights)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_a_pytorch_file_are_read(zipped: bool, source: Path):
    weights = weights_of(source)
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()}
    torch.save(parameters, source / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (source / "model.safetensors").unlink()

    assert_holds(source, weights)
    assert not any(tensor.read().requires_grad for tensor in read_directory(source).tensors.values())


def test_tensors_of_pytorch_files_in_parts_are_read(source: Path):
    weights = weights_of(source)
    (source / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for file, part in parts.items():
        torch.save({name: weights[name] for name in part}, source / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    assert_holds(source, weights)


def test_safetensors_go_before_a_pytorch_file(source: Path):
    weights = weights_of(source)
    torch.save({}, source / "pytorch_model.bin")

    assert_holds(source, weights)
    assert read_directory(source).notes == ()


class Command:
    """Runs something where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_that_would_run_code_is_refused_and_runs_none(zipped: bool, source: Path, tmp_path: Path):
    content = {"model.norm.weight": Command(tmp_path / "made")}
    torch.save(content, source / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (source / "model.safetensors").unlink()

    with pytest.raises(SourceError, match=r"pytorch_model\.bin is not a whole file of tensors alone.*mkdir") as caught:
        read_directory(source)
    assert not (tmp_path / "made").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"model": {"a": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(1)])
def test_a_pytorch_file_that_holds_more_than_tensors_is_refused(content: Any, source: Path):
    torch.save(content, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()

    with pytest.raises(SourceError, match="tensors by name"):
        read_directory(source)


def cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def emptied(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"")


def not_weights(path: Path) -> None:
    (path / "model.safetensors").write_text("<html>Not found</html>" * 100)


def a_part_missing(path: Path) -> None:
    in_parts(path)[1].unlink()


def no_index(path: Path) -> None:
    in_parts(path)
    (path / "model.safetensors.index.json").unlink()


def a_part_of_another_revision(path: Path) -> None:
    part = in_parts(path)[0]
    save_file({"model.norm.weight": torch.zeros(64)}, part)


def a_weight_twice(path: Path) -> None:
    first, second = in_parts(path)
    for part in (first, second):
        held = {name: tensor.clone() for name, tensor in load_file(part).items()}
        save_file(held | {"extra": torch.zeros(1)}, part)


def an_index_that_leaves_the_directory(path: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def two_sets(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "kept")
    in_parts(path)
    (path / "kept").rename(path / "model.safetensors")


def parts_beside_one_file(path: Path) -> None:
    two_sets(path)
    (path / "model.safetensors.index.json").unlink()


def an_index_of_no_parts(path: Path) -> None:
    two_sets(path)
    for part in path.glob("model-*"):
        part.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"model\.safetensors must be a whole safetensors file.*download it again"),
        (emptied, r"must be a whole safetensors file, got 0 bytes"),
        (not_weights, r"must be a whole safetensors file"),
        (a_part_missing, r"got none called model-00002-of-00002\.safetensors; download the missing parts"),
        (no_index, r"must have model\.safetensors\.index\.json"),
        (a_part_of_another_revision, r"model-00001-of-00002\.safetensors must hold what the index says"),
        (a_weight_twice, r"each weight must be in one file, got extra"),
        (an_index_that_leaves_the_directory, r"must name files beside it, got '\.\./model\.safetensors'"),
        (two_sets, r"one set of weights, got two; delete model\.safetensors,"),
        (parts_beside_one_file, r"one set of weights, got two"),
        (an_index_of_no_parts, r"one set of weights, got two; delete model\.safetensors\.index\.json"),
    ],
)
def test_weights_that_are_damaged_or_in_doubt_are_an_error_of_one_line(damage: Change, message: str, source: Path):
    damage(source)

    with pytest.raises(SourceError, match=message) as caught:
        read_directory(source)
    assert "\n" not in str(caught.value)


def test_weights_in_the_publishers_own_format_beside_them_are_left_aside_with_a_note(source: Path):
    weights = weights_of(source)
    save_file({"norm.weight": torch.zeros(1)}, source / "consolidated.safetensors")
    (source / "original").mkdir()
    (source / "original" / "consolidated.00.pth").touch()

    assert_holds(source, weights)
    assert read_directory(source).notes == ("not read: consolidated.safetensors",)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}}', '"llama"', "[" * 100_000])
def test_settings_that_are_no_json_object_are_an_error_that_names_the_file(file: str, content: str, source: Path):
    (source / file).write_text(content)

    with pytest.raises(SourceError, match=file) as caught:
        read_directory(source)
    assert "\n" not in str(caught.value)


def test_settings_are_as_the_files_have_them(source: Path):
    config = json.loads((source / "config.json").read_text()) | {"of_their_own": [1, None]}
    (source / "config.json").write_text("\ufeff" + json.dumps(config), encoding="utf-8")
    found = read_directory(source)

    assert found.config == config
    assert found.generation == {"bos_token_id": 0, "eos_token_id": 2, "do_sample": False}
    (source / "generation_config.json").unlink()
    assert read_directory(source).generation == {}


COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"


@pytest.mark.parametrize(
    ("place", "name", "revision"),
    [
        ("models/tiny-llama", "tiny-llama", None),
        (f"hub/models--Qwen--Qwen3-0.6B/snapshots/{COMMIT}", "Qwen/Qwen3-0.6B", COMMIT),
        (f"hub/models--Qwen--with--dashes/snapshots/{COMMIT}", "Qwen/with--dashes", COMMIT),
        (f"hub/models--gpt2/snapshots/{COMMIT}", "gpt2", COMMIT),
        (f"models/tiny-llama/{COMMIT}", "tiny-llama", None),
        ("models/tiny-llama/", "tiny-llama", None),
    ],
)
def test_a_model_has_the_name_of_its_repository_or_directory(
    place: str, name: str, revision: str | None, tmp_path: Path
):
    path = tmp_path / place
    path.mkdir(parents=True)

    assert model_name(path) == (name, revision)
    assert model_name(Path(f"{path}/../{path.name}/.")) == (name, revision)


def test_the_current_directory_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path / "tiny")

    assert model_name(Path()) == ("tiny", None)
    assert model_name(Path("/"))[0]


def test_a_link_to_a_snapshot_has_the_name_of_the_repository(tmp_path: Path):
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (tmp_path / "linked").symlink_to(snapshot)

    assert model_name(tmp_path / "linked") == ("Qwen/Qwen3-0.6B", COMMIT)


def test_name_and_revision_of_the_caller_go_before_those_of_the_directory(source: Path):
    found = read_directory(source, name="owner/name", revision="abc")

    assert (found.name, found.revision) == ("owner/name", "abc")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\nText", "apache-2.0"),
        ("---\r\ntags:\r\n- a\r\nlicense: 'mit' # free\r\n---\r\n", "mit"),
        ("---\nlicense:\n- llama3.1\n---\n", "llama3.1"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: own\n---\n", "other"),
        ("---\ntags: a\n---\nlicense: mit\n", None),
        ("---\nlicense:\n---\n", None),
        ("license: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_is_what_the_model_card_states(card: str, licence: str | None, tmp_path: Path):
    (tmp_path / "README.md").write_text(card, encoding="utf-8-sig", newline="")

    assert read_licence(tmp_path / "README.md") == licence


def test_without_a_model_card_there_is_no_licence(source: Path):
    assert read_directory(source).licence is None


def expected_of(weights: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def rewritten(source: Path, weights: dict[str, torch.Tensor]) -> Any:
    save_file(weights, source / "model.safetensors")
    return read_directory(source)


def needs_nothing(name: str) -> str | None:
    return "rotary frequencies" if name.endswith("inv_freq") else None


def test_weights_that_are_all_there_are_accepted(source: Path):
    expected = expected_of(weights_of(source))

    assert check_weights(read_directory(source), expected, needs_nothing).notes == ()


def test_a_missing_weight_is_named(source: Path):
    weights = weights_of(source)
    expected = expected_of(weights)
    del weights["model.layers.1.mlp.up_proj.weight"]

    with pytest.raises(SourceError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        check_weights(rewritten(source, weights), expected, needs_nothing)


def test_of_many_missing_weights_the_first_three_are_named(source: Path):
    weights = weights_of(source)
    expected = expected_of(weights)
    left = {name: tensor for name, tensor in weights.items() if ".layers.1." not in name}
    names = [name for name in expected if ".layers.1." in name]

    with pytest.raises(SourceError) as caught:
        check_weights(rewritten(source, left), expected, needs_nothing)
    assert f"{len(names)} missing ({', '.join(names[:3])}, ...)" in str(caught.value)


def test_an_unexpected_weight_is_named_unless_it_is_ignored(source: Path):
    weights = weights_of(source)
    expected = expected_of(weights)
    checkpoint = rewritten(source, weights | {"model.extra.weight": torch.zeros(2)})

    with pytest.raises(SourceError, match=r"1 unexpected \(model\.extra\.weight\)"):
        check_weights(checkpoint, expected, needs_nothing, ignored=("model.other.*",))
    unused = check_weights(checkpoint, expected, needs_nothing, ignored=("model.extra.*",))
    assert unused.ignored == ("model.extra.weight",)
    assert unused.notes == ("model.extra.weight not used: ignored on request",)


def test_an_ignored_weight_that_the_model_needs_is_checked_all_the_same(source: Path):
    weights = weights_of(source)
    expected = expected_of(weights)
    del weights["model.norm.weight"]

    with pytest.raises(SourceError, match=r"model\.norm\.weight"):
        check_weights(rewritten(source, weights), expected, needs_nothing, ignored=("*",))


def test_a_weight_that_no_model_needs_is_noted_with_its_reason(source: Path):
    weights = weights_of(source)
    buffers = {f"model.layers.{block}.self_attn.rotary_emb.inv_freq": torch.zeros(8) for block in range(2)}
    unused = check_weights(rewritten(source, weights | buffers), expected_of(weights), needs_nothing)

    assert unused.ignored == ()
    assert unused.notes == (f"2 weights ({', '.join(buffers)}) not used: rotary frequencies",)


def test_a_weight_of_another_shape_is_named_with_both_shapes(source: Path):
    weights = weights_of(source)
    expected = expected_of(weights)
    weights["model.norm.weight"] = torch.zeros(32)

    with pytest.raises(SourceError, match=r"model\.norm\.weight of 32 in place of 64"):
        check_weights(rewritten(source, weights), expected, needs_nothing)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(dtype: torch.dtype, value: float):
    tensor = torch.ones(4, 5, dtype=dtype)
    check_finite("model.norm.weight", tensor)
    tensor[2, 3] = value

    with pytest.raises(SourceError, match=r"model\.norm\.weight has values that are not finite"):
        check_finite("model.norm.weight", tensor)


def test_the_largest_finite_numbers_are_finite():
    check_finite("weight", torch.full((4, 5), torch.finfo(torch.float16).max, dtype=torch.float16))
    check_finite("weight", torch.zeros(0))
    check_finite("weight", torch.zeros(3, dtype=torch.int32))
