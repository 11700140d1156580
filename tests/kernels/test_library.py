"""The library as a whole: where it is found, what it says where it cannot be used, and how it behaves in a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import level_builds
import numpy as np
import onnxruntime as ort
import pytest
from native_session import Sequence, make_model, open_model

import dovetail_ort_runtime
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.errors import UnavailableError

PROGRAM = Path(__file__).parent / "native_session.py"
PACKAGE = Path(dovetail_ort_runtime.__file__).parent
# Runs in a process of its own, against a copy of the package.
DESCRIBE = """
import json
from dovetail_ort_runtime import kernels

print(json.dumps([kernels.is_available(), kernels.why_missing(), str(kernels.library_path())]))
"""


def run_python(*arguments, cwd=None, **environment):
    """What a program prints as JSON."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def copied_package(tmp_path):
    """`copied_package(library)`: a folder that holds the runtime with this file as its library, or without one."""

    def copy(library=None, folder=tmp_path / "copied"):
        target = folder / "dovetail_ort_runtime"
        shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "source", "*.so"))
        if library is not None:
            shutil.copy(library, target / "kernels" / kernels.library_path().name)
        return folder

    return copy


def run_copy(folder, *arguments):
    """As `run_python`, with the packages of a folder; without `site`, which would find an editable install first."""
    paths = os.pathsep.join([str(folder), sysconfig.get_path("purelib")])
    return run_python("-S", *arguments, cwd=folder, PYTHONPATH=paths)


def describe(folder):
    return run_copy(folder, "-c", DESCRIBE)


def test_the_library_is_found_in_its_package_by_an_absolute_path():
    assert kernels.library_path().is_absolute()
    folders = [Path(folder).resolve() for folder in kernels.__path__]
    assert kernels.library_path().parent in folders


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what a process has mapped")
def test_no_variable_and_no_working_directory_names_another_library(tmp_path):
    shutil.copy(kernels.library_path(), tmp_path)
    elsewhere = str(tmp_path)
    names = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "DOVETAIL_KERNELS_PATH")
    variables = {name: f"{elsewhere}{os.pathsep}{os.environ.get(name, '')}" for name in names}
    assert run_python(PROGRAM, "mapped", cwd=tmp_path, **variables) == [str(kernels.library_path())]


def test_a_path_with_spaces_and_letters_of_other_alphabets_is_no_hindrance(copied_package, tmp_path):
    folder = copied_package(kernels.library_path(), tmp_path / "größe 日本 räum")
    program = shutil.copy(PROGRAM, tmp_path)
    (mapped,) = run_copy(folder, program, "mapped")
    assert Path(mapped).is_relative_to(folder)


def test_a_package_without_a_library_says_how_to_get_one(copied_package):
    available, reason, path = describe(copied_package())
    assert not available
    assert path == "None"
    assert "was built without its library of native operators; " in reason
    assert "\n" not in reason


@pytest.mark.parametrize("broken", ["text", "nothing", "of another processor"])
def test_a_file_that_is_no_library_for_this_system_is_refused_in_one_line(copied_package, tmp_path, broken):
    content = bytearray(kernels.library_path().read_bytes())
    if broken == "of another processor":
        content[18] ^= 0xFF  # the processor, in an ELF file
    file = tmp_path / "library"
    file.write_bytes({"text": b"no library\n", "nothing": b""}.get(broken, content))
    available, reason, _ = describe(copied_package(file))
    assert not available
    assert "does not load: " in reason
    assert "\n" not in reason


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are ELF files on Linux")
@pytest.mark.parametrize("lost", ["a byte", "half of it", "all but its first bytes"])
def test_a_truncated_library_is_refused_in_one_line_and_kills_no_process(copied_package, tmp_path, lost):
    content = kernels.library_path().read_bytes()
    kept = {"a byte": len(content) - 1, "half of it": len(content) // 2, "all but its first bytes": 40}[lost]
    file = tmp_path / "library"
    file.write_bytes(content[:kept])
    available, reason, _ = describe(copied_package(file))
    assert not available
    assert "is truncated: " in reason
    assert "\n" not in reason


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to make a library of another version")
def test_a_library_of_other_operators_is_refused_in_one_line(copied_package, tmp_path):
    source = tmp_path / "newer.c"
    source.write_text("int dovetail_operator_version(void) { return 2; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "newer.so", source], check=True)
    available, reason, _ = describe(copied_package(tmp_path / "newer.so"))
    assert not available
    assert "must have version 1 of the operators, got 2; " in reason


def test_the_level_is_one_that_this_processor_has():
    assert kernels.level() in kernels.levels()
    assert kernels.levels()[-1] == "portable"


def test_the_library_was_built_of_this_release():
    import importlib.metadata

    assert kernels.library_version() == importlib.metadata.version("dovetail-ort")


@pytest.mark.parametrize("name", ["neon9", "AVX2", "portable "])
def test_a_level_that_is_not_to_be_had_is_an_error_of_one_line(name):
    code = """
import json
import onnxruntime
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.errors import UnavailableError

found = []
for call in (kernels.level, lambda: kernels.register(onnxruntime.SessionOptions())):
    try:
        call()
    except UnavailableError as error:
        found.append(str(error))
print(json.dumps(found))
"""
    messages = run_python("-c", code, DOVETAIL_KERNELS=name)
    assert len(messages) == 2
    for message in messages:
        assert "DOVETAIL_KERNELS must be one of " in message
        assert "\n" not in message


def test_a_missing_library_cannot_be_registered(monkeypatch):
    monkeypatch.setattr(kernels, "why_missing", lambda: "the library must be there, got none; build it")
    with pytest.raises(UnavailableError, match=r"must be there, got none; build it"):
        kernels.register(ort.SessionOptions())


def test_weights_are_mapped_or_copied_with_the_same_bits(monkeypatch):
    answers = []
    for choice in ("map", "copy"):
        monkeypatch.setenv("DOVETAIL_WEIGHTS", choice)
        answers.append(Sequence(open_model()).forward([1, 2, 3]))
    assert answers[0].tobytes() == answers[1].tobytes()
    monkeypatch.setenv("DOVETAIL_WEIGHTS", "move")
    with pytest.raises(Exception, match=r"DOVETAIL_WEIGHTS must be map or copy, got move; "):
        open_model()


@pytest.mark.skipif(level_builds.compiler() is None, reason="needs a C++ compiler")
def test_a_copied_weight_is_not_taken_for_a_later_one_at_its_address(tmp_path):
    # ONNX Runtime frees a session's weights before its kernels, and another session may get the memory in between.
    sources = [PROGRAM.with_name("placed_constant_program.cpp")]
    sources += [level_builds.SOURCE / name for name in ("placed_constant.cpp", "status.cpp")]
    program = level_builds.compile_level(
        "portable", sources, tmp_path / "program", "-pthread", compiler=level_builds.compiler()
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_one_session_run_from_four_threads_gives_each_its_own_answer():
    session = open_model()
    texts = [[(seed * 7 + index * 3) % 96 for index in range(5 + 9 * seed)] for seed in range(4)]

    def answer(text):
        sequence = Sequence(session)
        parts = [sequence.forward(text[:3])]
        parts += [sequence.forward([token]) for token in text[3:]]
        return np.concatenate(parts)

    alone = [answer(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for expected, found in zip(alone, pool.map(answer, texts), strict=True):
                assert found.tobytes() == expected.tobytes()


def test_rows_in_one_forward_and_one_by_one_have_the_same_bits_for_any_number_of_threads():
    text = [(index * 31) % 96 for index in range(70)]
    answers = []
    for threads in (1, 2, 3, 8):
        session = open_model(threads=threads)
        whole, single = Sequence(session), Sequence(session)
        answers.append(whole.forward(text))
        answers.append(np.concatenate([single.forward([token]) for token in text]))
    assert {answer.tobytes() for answer in answers} == {answers[0].tobytes()}


def test_a_session_of_a_file_and_one_of_bytes_have_the_same_bits(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(make_model())
    from_file, from_bytes = (Sequence(open_model(source)).forward([1, 2]) for source in (str(path), make_model()))
    assert from_file.tobytes() == from_bytes.tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the memory of a process")
@pytest.mark.parametrize("weights", ["map", "copy"])
def test_a_session_that_is_opened_and_closed_200_times_leaves_no_memory_behind(weights):
    early, late = run_python(PROGRAM, "reopened", DOVETAIL_WEIGHTS=weights)
    # One session holds 60 kB of weights and 130 kB of cache; the allocator may keep some pages more.
    assert late - early < 1 << 20


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs a C compiler and glibc")
def test_a_forward_allocates_nothing_after_the_first_of_its_size(tmp_path):
    counter = tmp_path / "count.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", counter, PROGRAM.with_name("count_allocations.c")], check=True)
    first, later = run_python(PROGRAM, "counted", LD_PRELOAD=str(counter))
    assert first > 0
    assert later == 0
