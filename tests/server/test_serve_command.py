"""`dovetail-ort serve` as a process: how it starts, ends and refuses."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from dovetail_ort.cli.main import main
from dovetail_ort.commands import serve

SECONDS = 30


@pytest.fixture
def process(tiny_bundle):
    """`process(*arguments)`: the command with a free port, its address, and the line that it prints when ready."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "dovetail_ort", "serve", str(tiny_bundle), "--port", "0", "--threads", "1"]
        running = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        started.append(running)
        line = running.stderr.readline()
        return running, re.search(r"http://\S+?:\d+", line)[0], line

    yield start
    for running in started:
        running.kill()
        running.communicate()


def ask(url, seed, **fields):
    body = {"prompt": "A dovetail joint", "max_tokens": 480, "temperature": 1, "seed": seed, **fields}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=SECONDS)


def num_taken(url):
    """Number of requests for an answer that have come: they wait, run or are answered."""
    taken = r"^dovetail_(?:queue_length|running|answers_total{.*}) ([0-9.]+)$"
    return sum(map(float, re.findall(taken, httpx.get(f"{url}/metrics").text, re.MULTILINE)))


def is_ending(url):
    """Whether the server has understood a signal: it says so, or takes no connection any more."""
    try:
        return httpx.get(f"{url}/health").status_code == 503
    except httpx.TransportError:
        return True


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_what_it_accepted_and_end_with_status_0(process, told):
    running, url, _ = process()
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask, url, seed) for seed in range(6)]
        while num_taken(url) < 6:
            time.sleep(0.01)
        running.send_signal(told)
        assert [answer.result().status_code for answer in answers] == [200] * 6
    assert running.wait(SECONDS) == 0
    assert running.stderr.read() == ""


def test_a_second_signal_ends_it_at_once(process):
    running, url, _ = process("--time-limit", "1000")
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask, url, seed) for seed in range(30)]
        while "dovetail_running 1.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        while not is_ending(url):
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        assert running.wait(SECONDS) == -signal.SIGTERM
        assert any(answer.exception() is not None for answer in answers)


def test_it_is_bound_to_this_machine_and_names_the_model_after_its_source(process, tiny_llama):
    _, url, line = process()
    assert url.startswith("http://127.0.0.1:")
    assert f"serving {tiny_llama.name} at {url}, with OpenAI's API at {url}/v1" in line
    (entry,) = httpx.get(f"{url}/v1/models").json()["data"]
    assert entry["id"] == tiny_llama.name


@pytest.mark.parametrize("contents", [b"a-key\nand a remark\n", b"\xef\xbb\xbfa-key\r\nein Schl\xc3\xbcssel\r\n"])
def test_the_key_is_the_first_line_of_its_file_whatever_system_wrote_it(contents, process, tmp_path):
    (tmp_path / "key").write_bytes(contents)
    _, url, line = process("--api-key-file", str(tmp_path / "key"), "--host", "0.0.0.0", "--model-name", "mine")
    assert "serving mine" in line
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer a-key"}).status_code == 200


def test_options_bound_an_answer_and_refuse_fields_that_nobody_knows(process):
    _, url, _ = process("--strict", "--max-new-tokens", "5")
    assert ask(url, 1, max_tokens=5).status_code == 200
    for fields, param in (({"max_tokens": 6}, "max_tokens"), ({"max_tokens": 5, "foo": 1}, "foo")):
        refused = ask(url, 1, **fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_other_machines_are_let_in_without_a_key_only_with_a_warning(process):
    running, *_ = process("--host", "0.0.0.0")
    assert "--api-key-file" in running.stderr.readline()


def test_an_address_that_is_taken_is_reported_in_a_line(tiny_bundle, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tiny_bundle), "--port", str(port)]) == 2
    assert f"must be an address of this machine that is free, got 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "port must be between 0 and 65535, got 70000"),
        (["--host", "no.such.host.invalid"], "host and port must be an address of this machine"),
        (["--grace", "-1"], "--grace must be 0 or more"),
        (["--max-queue", "0"], "max_queue must be 1 or more, got 0"),
        (["--time-limit", "nan"], "time_limit_seconds must be above 0"),
        (["--api-key-file", "/dev/null"], "api_key must be one ASCII character or more"),
        (["--api-key-file", "absent"], "the file of --api-key-file is no readable UTF-8 file"),
        (["--api-key-file", sys.executable], "the file of --api-key-file is no readable UTF-8 file"),
    ],
    ids=str,
)
def test_a_setting_out_of_bounds_is_reported_in_a_line(tiny_bundle, capsys, arguments, said):
    assert main(["serve", str(tiny_bundle), *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_the_documentation_names_options_with_their_defaults(capsys):
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    assert main(["serve", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= set(re.findall(r"--[a-z][a-z-]+", shown))
    for option, default in re.findall(r"^\| `(--[a-z-]+)` (\d+) \|", page, flags=re.MULTILINE):
        # The description of an option ends before the next one begins.
        assert f"(default: {default})" in re.search(rf" {option} [A-Z] .*?(?= --)", shown)[0]


def test_a_package_that_is_absent_is_named_with_the_extra_that_has_it(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr(serve, "_NEEDED", ("starlette", "no_such_package"))
    assert main(["serve", str(tiny_bundle)]) == 2
    assert 'no_such_package; run: pip install "dovetail-ort[server]"' in capsys.readouterr().err
