"""Steps with a limit, and what goes on when one fails; the environment is the Python that runs the tests."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import measure
from benchmarks.gpu.plan import FULL, REHEARSAL, plan
from benchmarks.gpu.step import Step, cpus_of, run_step


def step(name, program, **options):
    return Step(name=name, arguments=("-c", program), **{"limit": 30, **options})


def run(one, folder):
    return run_step(one, Path(sys.executable), folder, dict(os.environ))


def test_a_json_object_is_the_result(tmp_path):
    found = run(step("one", "print('{\"a\": 1}')"), tmp_path)
    assert (found["status"], found["result"]) == (0, {"a": 1})


def test_other_output_is_kept_as_it_is_and_errors_of_a_failure_are(tmp_path):
    found = run(step("one", "import sys; print('words'); sys.exit('reason')"), tmp_path)
    assert (found["status"], found["output"], found["errors"]) == (1, "words\n", "reason\n")


def test_a_step_is_killed_at_its_limit_with_all_that_it_started(tmp_path):
    program = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
import time; time.sleep(60)
"""
    found = run(step("one", program, limit=5), tmp_path)
    assert found["status"] == 124
    child = int(found["output"])
    deadline = time.monotonic() + 10  # the system ends what it was told to kill when it comes to it
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(len(cpus_of(2)) < 2, reason="needs two cores")
def test_a_step_has_the_cores_that_it_may_use(tmp_path):
    program = "import os, time; time.sleep(0.2); print('{\"cpus\":', len(os.sched_getaffinity(0)), '}')"
    assert run(step("one", program, num_cores=1), tmp_path)["result"] == {"cpus": 1}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """`measured(steps, *arguments)`: exit status and results of steps whose archives have come."""
    folder, out = tmp_path / "machine", tmp_path / "out"
    (folder / "pieces").mkdir(parents=True)
    (folder / "pieces" / "contents.json").write_text('{"runtime": {"pieces": 1, "sha256": ""}}')
    (folder / "runtime" / "site").mkdir(parents=True)
    monkeypatch.setattr(measure, "make_environment", lambda *_: Path(sys.executable))
    monkeypatch.setattr(measure, "describe_machine", lambda *_: {"folder": "here", "gpu": "none"})
    monkeypatch.chdir(tmp_path)

    def run(steps, *arguments):
        monkeypatch.setattr(measure, "plan", lambda *_: steps)
        status = measure.main(["--folder", str(folder), "--out", str(out), *arguments])
        return status, json.loads((out / "here" / "gpu.json").read_text())["steps"]

    return run


def test_a_step_that_fails_does_not_end_the_rest(measured):
    steps = [step("one", "1 / 0", needs="runtime"), step("two", "print('{}')", needs="runtime")]
    status, found = measured(steps)
    assert status == 1
    assert {name: entry["status"] for name, entry in found.items()} == {"one": 1, "two": 0}


def test_a_second_call_runs_what_has_not_ended_well(measured, tmp_path):
    ran = tmp_path / "ran"
    count = f"open({str(ran)!r}, 'a').write('x'); print('{{}}')"
    steps = [step("one", count, needs="runtime"), step("two", "1 / 0", needs="runtime")]
    measured(steps)
    mended = [steps[0], step("two", "print('{}')", needs="runtime")]
    status, found = measured(mended)
    assert (status, ran.read_text(), found["two"]["status"]) == (0, "x", 0)


def test_named_steps_alone_are_run_again(measured, tmp_path):
    ran = tmp_path / "ran"
    steps = [
        step(name, f"open({str(ran)!r}, 'a').write({name!r}); print('{{}}')", needs="runtime") for name in ("a", "b")
    ]
    measured(steps)
    part = tmp_path / "part"
    part.mkdir()
    (part / "contents.json").write_text((tmp_path / "machine" / "pieces" / "contents.json").read_text())
    measured(steps, str(part), "--latest", "60", "b")
    assert ran.read_text() == "abb"


def test_an_unknown_step_is_refused(measured, tmp_path, capsys):
    with pytest.raises(SystemExit):
        measured([step("one", "")], str(tmp_path), "two")
    assert "two" in capsys.readouterr().err


def test_no_step_starts_after_the_time_limit(measured):
    status, found = measured([step("one", "print('{}')", needs="runtime")], "--latest", "-1")
    assert (status, found) == (1, {})


def test_a_step_waits_for_its_archive(measured):
    status, found = measured([step("one", "print('{}')", needs="model")])
    assert (status, found) == (0, {})


@pytest.mark.parametrize("scale", [FULL, REHEARSAL])
def test_every_step_has_a_name_of_its_own_and_what_comes_first_needs_no_model(scale):
    steps = plan(scale, Path("source"), Path("head"), Path("bundles"))
    assert len({one.name for one in steps}) == len(steps)
    needs = [one.needs for one in steps]
    assert needs == sorted(needs, reverse=True)


def test_the_rehearsal_has_the_steps_of_the_measurement():
    names = [[one.name for one in plan(scale, Path("s"), Path("h"), Path("b"))] for scale in (FULL, REHEARSAL)]
    assert names[0] == names[1]
