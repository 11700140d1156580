"""kill -9 while a bundle is read or written, and the next start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from shutil import copytree

import pytest

import dovetail_ort
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import BundleError

GENERATE = """
import sys
import dovetail_ort
model = dovetail_ort.load(sys.argv[1], threads=1)
for piece in model.stream("A dovetail joint", dovetail_ort.GenerationOptions(max_new_tokens=400)):
    print(piece.text, flush=True)
"""

# Torch is imported once; each child is killed where its marker comes: a reported step, or the n-th rename from then on.
EXPORT = """
import json, os, signal, sys, warnings
from pathlib import Path
import torch, transformers
from dovetail_ort_export import ExportOptions, export_bundle

warnings.simplefilter("ignore")
torch.set_num_threads(1)
source, folder = sys.argv[1], Path(sys.argv[2])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def export(out, moment):
    def report(step):
        if moment in step:
            die()
    rename = Path.rename
    def counted_rename(path, target):
        if moment == "before " + path.name:
            die()
        rename(path, target)
        if moment == "after " + path.name:
            die()
    Path.rename = counted_rename
    export_bundle(source, out, ExportOptions(format="native", force=True), report)

for number, (moment, out) in enumerate(json.loads(sys.argv[3])):
    child = os.fork()
    if not child:
        export(folder / out, moment)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(json.dumps([moment, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)]), flush=True)
"""
NEW_MOMENTS = ("loading", "computing", "recomputing", "writing", "checking", "before new")
OLD_MOMENTS = ("writing", "before bundle", "after bundle", "after new")


def test_killed_while_generating_it_starts_again_and_the_bundle_is_as_it_was(tiny_bundle):
    before = {path.name: path.read_bytes() for path in tiny_bundle.iterdir()}
    with subprocess.Popen([sys.executable, "-c", GENERATE, str(tiny_bundle)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in tiny_bundle.iterdir()} == before
    answer = dovetail_ort.load(tiny_bundle, threads=1, verify="all").generate("A dovetail joint")
    assert answer.token_ids


@pytest.fixture(scope="module")
def killed(tiny_llama, tiny_bundle, tmp_path_factory):
    """A folder in which exports were killed; the one for a moment in `<moment>/new` or over `<moment>/bundle`."""
    folder = tmp_path_factory.mktemp("killed")
    runs = [(moment, f"new {moment}/bundle") for moment in NEW_MOMENTS]
    runs += [(moment, f"old {moment}/bundle") for moment in OLD_MOMENTS]
    for _, out in runs:
        (folder / out).parent.mkdir()
        if out.startswith("old"):
            copytree(tiny_bundle, folder / out)
    command = [sys.executable, "-c", EXPORT, str(tiny_llama), str(folder), json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert ends == [[moment, -signal.SIGKILL] for moment, _ in runs]
    return folder


@pytest.mark.parametrize("moment", NEW_MOMENTS)
def test_killed_while_exporting_there_is_no_bundle_at_all(killed, moment):
    folder = killed / f"new {moment}"
    (leftover,) = folder.iterdir()
    assert leftover.name.startswith(".bundle.")
    for directory in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        if moment != "before new":  # then it is whole, under another name
            with pytest.raises(BundleError):
                Bundle(directory)


@pytest.mark.parametrize("moment", OLD_MOMENTS)
def test_killed_while_replacing_the_old_or_the_new_bundle_is_whole(killed, moment):
    from dovetail_ort_export.writing.bundle_output import clear_leftovers

    out = killed / f"old {moment}" / "bundle"
    clear_leftovers(out)
    Bundle(out, verify="all")
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("moment", ["new checking", "new before new"])
def test_the_next_export_succeeds_and_clears_what_was_left(killed, moment, tiny_llama):
    from dovetail_ort_export import ExportOptions, export_bundle

    out = killed / moment / "bundle"
    export_bundle(str(tiny_llama), out, ExportOptions(precision="fp32"))
    Bundle(out, verify="all")
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def test_what_a_running_export_writes_is_not_cleared(tiny_bundle, tmp_path):
    from dovetail_ort_export.writing.bundle_output import bundle_directory, clear_leftovers

    out = tmp_path / "bundle"
    with bundle_directory(out) as directory:
        copytree(tiny_bundle, directory, dirs_exist_ok=True)
        clear_leftovers(out)
        assert directory.exists()
    Bundle(out, verify="all")


def test_what_is_no_bundle_is_not_put_in_place(tmp_path):
    from dovetail_ort_export.writing.bundle_output import bundle_directory

    with pytest.raises(BundleError), bundle_directory(tmp_path / "bundle") as directory:
        (directory / "file").write_text("x")
    assert not list(tmp_path.iterdir())


def test_a_directory_of_another_name_is_not_cleared(tmp_path):
    from dovetail_ort_export.writing.bundle_output import clear_leftovers

    for name in (".bundle.mine", ".other.x.partial", "bundle.x.partial", ".bundle.unlocked.partial"):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path / "bundle")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_bundle_is_not_attached_to(tiny_bundle, tiny_head, tmp_path, monkeypatch):
    from dovetail_ort_export.attach import attach_drafter

    monkeypatch.setattr("dovetail_ort_runtime.bundle.bundle.SMALL_FILE_BYTES", 0)
    copy = copytree(tiny_bundle, tmp_path / "bundle")
    weights = copy / "model_native.onnx_data"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(BundleError, match="must have the SHA-256"):
        attach_drafter(copy, tiny_head(tiny_bundle))
