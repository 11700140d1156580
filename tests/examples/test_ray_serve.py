"""The Ray Serve example on a Ray of its own: two replicas, one of which is killed under load."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from dovetail_ort_runtime.model import load_model
from dovetail_ort_runtime.options import GenerationOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed; run: pip install 'ray[serve]>=2.60'"
    ),
    pytest.mark.skipif(not Path("/proc").exists(), reason="replicas' processes are found in /proc, which is not here"),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_serve"
SECONDS = 60  # of patience
NUM_CLIENTS = 10
QUESTIONS = [f"What holds the {number} pins?" for number in range(12)]
ASKED = {"model": "tiny", "max_tokens": 120, "temperature": 0}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray with the example on it."""

    url: str
    process: subprocess.Popen

    def client(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=SECONDS)

    def replicas(self):
        """Process ids."""
        titles = {pid: read(pid, "cmdline") for pid in descendants(self.process.pid)}
        return {pid for pid, title in titles.items() if title.startswith("ray::ServeReplica:")}


def read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def descendants(pid):
    """Living processes below one, itself included."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        after_name = read(path.name, "stat").rpartition(") ")[2].split()
        if after_name and after_name[0] != "Z":
            parents[int(path.name)] = int(after_name[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found & parents.keys()


def until(holds, log=None):
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came true" if log is None else log.read_text()
        time.sleep(0.1)


def answers(url):
    try:
        return httpx.get(f"{url}/v1/models").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def cluster(tiny_bundle):
    """The example as `serve run` starts it; nothing of it is left at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # sockets stand in it, and their paths must be short
        config = (EXAMPLE / "app.yaml").read_text().replace("port: 8000", f"port: {port}")
        config = config.replace("/models/smollm2", str(tiny_bundle)).replace("model_name: smollm2", "model_name: tiny")
        (Path(folder) / "app.yaml").write_text(config)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # it would write a token into the home directory
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(100 << 20),
            "PYTHONPATH": os.pathsep.join([str(EXAMPLE), *sys.path]),
        }
        command = [Path(sys.executable).with_name("serve"), "run", Path(folder) / "app.yaml"]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            found = Cluster(url=f"http://127.0.0.1:{port}", process=process)
            try:
                until(lambda: answers(found.url) and len(found.replicas()) == 2, Path(log.name))
                yield found
            finally:
                started = descendants(process.pid)
                process.send_signal(signal.SIGINT)
                process.wait(SECONDS)
                left = ended(started)
    assert left == {}


def ended(pids):
    """Wait for processes to end and kill the others; their titles."""
    deadline = time.monotonic() + SECONDS / 2
    while left := {pid: title for pid in pids if "ray" in (title := read(pid, "cmdline"))}:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.1)
    return left


@pytest.fixture(scope="module")
def expected(tiny_bundle):
    """Text and end of each answer, as a model gives them that nobody else asks."""
    options = GenerationOptions(max_new_tokens=ASKED["max_tokens"], max_draft_tokens=0)
    with load_model(tiny_bundle, threads=1) as model:
        found = [model.generate([{"role": "user", "content": text}], options) for text in QUESTIONS]
    return [(answer.text, answer.finish_reason) for answer in found]


def ask(client, number, *, stream, tell=lambda text: None):
    """Text and end of an answer; None for a part that never came."""
    asked = {**ASKED, "messages": [{"role": "user", "content": QUESTIONS[number]}]}
    if not stream:
        choice = client.chat.completions.create(**asked).choices[0]
        return choice.message.content, choice.finish_reason
    text, end = "", None
    for chunk in client.chat.completions.create(**asked, stream=True):
        text += chunk.choices[0].delta.content or ""
        end = chunk.choices[0].finish_reason or end
        tell(text)
    return text, end


def test_when_a_replica_is_killed_every_request_is_answered_rightly_or_ends_in_an_error(cluster, expected):
    assert len(set(expected)) > 1
    right, failed, wrong, texts = [], [], [], {}
    stopped = threading.Event()

    def load(client_number):
        with cluster.client() as client:
            for turn in itertools.count(client_number):
                if stopped.is_set():
                    return
                number = turn % len(QUESTIONS)
                texts[client_number] = ""
                try:
                    tell = functools.partial(texts.__setitem__, client_number)
                    answer = ask(client, number, stream=bool(turn // len(QUESTIONS) + turn & 1), tell=tell)
                except (openai.APIError, httpx.TransportError) as error:
                    failed.append(error)
                else:
                    (right if answer == expected[number] else wrong).append(answer)

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        clients = [pool.submit(load, number) for number in range(NUM_CLIENTS)]
        try:
            until(lambda: len(right) >= 2 * NUM_CLIENTS)
            assert failed == []
            killed = min(cluster.replicas())
            until(lambda: stands_midway(killed, texts))
            killed_at = time.time()
            os.kill(killed, signal.SIGKILL)
            answered = len(right)
            until(lambda: len(right) >= answered + 2 * NUM_CLIENTS)
            until(lambda: is_replaced(cluster, killed, killed_at))
        finally:
            stopped.set()
        for client in clients:
            client.result()
    assert wrong == []
    assert not any(isinstance(error, openai.APITimeoutError) for error in failed)
    assert any(not isinstance(error, openai.APIStatusError) for error in failed)  # the stream that broke


def stands_midway(replica, texts):
    """Stop a replica; whether a stream stands still after its first text. If not, the replica goes on."""
    os.kill(replica, signal.SIGSTOP)
    before = dict(texts)
    time.sleep(1)
    if any(text and texts[client] == text for client, text in before.items()):
        return True
    os.kill(replica, signal.SIGCONT)
    return False


def is_replaced(cluster, killed, killed_at):
    """Whether there are two replicas again, and one that was made since has answered."""
    replicas = cluster.replicas()
    created = httpx.get(f"{cluster.url}/v1/models", timeout=SECONDS).json()["data"][0]["created"]
    return len(replicas) == 2 and killed not in replicas and created > killed_at


def test_afterwards_all_requests_are_answered(cluster, expected):
    until(lambda: len(cluster.replicas()) == 2)
    with cluster.client() as client, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda number: ask(client, number, stream=number % 2 == 0), range(len(QUESTIONS)))
        assert list(found) == expected
