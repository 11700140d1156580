"""The program as its users meet it: help, version, refusals, how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dovetail_ort
from dovetail_ort.cli.main import main
from dovetail_ort.commands import COMMANDS
from dovetail_ort.commands.graph import COMMANDS as GRAPH_COMMANDS
from dovetail_ort_runtime.model import Model

PROMPT = "The tails hold the pins"


def test_module_prints_help():
    result = subprocess.run(
        [sys.executable, "-m", "dovetail_ort", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in result.stdout for name in COMMANDS)
    assert result.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"  dovetail-ort {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", GRAPH_COMMANDS)
def test_help_of_each_command_on_graphs_shows_an_example(name, capsys):
    assert main(["graph", name, "--help"]) == 0
    assert re.search(rf"^  dovetail-ort graph {name}\b", capsys.readouterr().out, re.MULTILINE)


def test_help_imports_no_torch():
    code = "import sys, dovetail_ort.cli.main as cli; cli.main(['export', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_version(capsys):
    assert main(["--version"]) == 0
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"dovetail-ort {project['version']}\n"
    assert dovetail_ort.__version__ == project["version"]


def test_disk_and_memory_errors_are_one_line(tiny_bundle, refused, monkeypatch):
    def fail(error: Exception) -> Callable[..., None]:
        def raise_error(*_: object, **__: object) -> None:
            raise error

        return raise_error

    monkeypatch.setattr(Model, "generate", fail(OSError(28, "No space left on device", "/some/file")))
    assert "No space left on device: /some/file" in refused("generate", tiny_bundle, PROMPT, "--json")
    monkeypatch.setattr(Model, "generate", fail(OSError("10368 requested and 128 written")))
    assert "is the disk full?" in refused("generate", tiny_bundle, PROMPT, "--json")
    monkeypatch.setattr(Model, "generate", fail(MemoryError("Unable to allocate 9 TiB")))
    assert "out of memory: Unable to allocate 9 TiB; take a smaller" in refused(
        "generate", tiny_bundle, PROMPT, "--json"
    )


SLOW_GENERATE = """
import sys, time
from dovetail_ort.cli.main import main
from dovetail_ort_runtime.engine.target import Target

forward = Target.forward

def slow_forward(*arguments, **options):
    time.sleep(0.2)
    return forward(*arguments, **options)

Target.forward = slow_forward
sys.exit(main(["generate", sys.argv[1], "The tails hold the pins", "--raw", "--max-draft-tokens", "0"]))
"""


@pytest.fixture
def slow_generate(tiny_bundle: Path) -> Any:
    """A process that has printed the first character of a long answer."""
    argv = [sys.executable, "-c", SLOW_GENERATE, str(tiny_bundle)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        yield process
        process.kill()


def test_interrupt_ends_generate_with_one_line(slow_generate):
    slow_generate.send_signal(signal.SIGINT)
    _, err = slow_generate.communicate(timeout=10)
    assert (slow_generate.returncode, err) == (130, b"dovetail-ort: interrupted\n")


def test_reader_that_goes_away_ends_generate_silently(slow_generate):
    slow_generate.stdout.close()
    assert slow_generate.wait(timeout=10) == 141
    assert slow_generate.stderr.read() == b""


@pytest.mark.parametrize(("closed", "status"), [("<&-", 2), (">&-", 0), ("2>&-", 0)])
def test_closed_standard_streams_are_no_accident(closed, status, tiny_bundle):
    command = f'exec "$0" -m dovetail_ort generate "$1" --max-new-tokens 2 - {closed}'
    result = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, str(tiny_bundle)],
        input=PROMPT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status
    assert "Traceback" not in result.stderr
