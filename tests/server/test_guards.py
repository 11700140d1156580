"""Who is let in with what; every refusal has OpenAI's shape."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from dovetail_ort.server.app import PAGE_PATHS

MESSAGES = [{"role": "user", "content": "What holds the pins?"}]
KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def narrow(model, serving):
    """A server with a key and small limits."""
    with serving(model, api_key=KEY, max_request_bytes=1000, max_prompt_tokens=40) as served:
        yield served


@pytest.fixture
def keyed(narrow):
    """OpenAI's client with the key."""
    with narrow.client(api_key=KEY) as client:
        yield client


def refused(response, status):
    """The error of a refusal, whose shape is checked."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_without_the_key_nothing_but_the_page_and_the_health_is_shown(narrow):
    for path in ("/v1/models", "/metrics", "/v1/chat/completions", "/elsewhere"):
        response = httpx.get(f"{narrow.url}{path}")
        assert refused(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/health", *PAGE_PATHS):
        assert httpx.get(f"{narrow.url}{path}").status_code == 200


@pytest.mark.parametrize("given", [f"Bearer {KEY}x", "Bearer", f"Basic {KEY}", KEY, "Bearer \xe9"])
def test_another_key_is_none(narrow, given):
    response = httpx.get(f"{narrow.url}/v1/models", headers={"authorization": given.encode("latin-1")})
    assert KEY not in refused(response, 401)["message"]


def test_openai_s_client_brings_the_key(narrow, keyed):
    assert keyed.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2).choices
    with narrow.client(api_key="another") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_body_beyond_its_limit_is_refused_whatever_its_length_says(narrow):
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    url = f"{narrow.url}/v1/completions"
    for content in (b" " * 1001, iter([b" " * 600] * 2)):  # with a Content-Length, and in chunks
        assert "1000 bytes or fewer" in refused(httpx.post(url, headers=headers, content=content), 413)["message"]


def test_a_prompt_beyond_its_limit_is_refused(keyed):
    with pytest.raises(openai.BadRequestError, match="40 tokens or fewer, got 41") as error:
        keyed.completions.create(model="tiny", prompt=[5] * 41)
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "prompt")


def test_more_tokens_than_an_answer_may_have_are_refused(serving, model):
    with serving(model, max_new_tokens=20) as bounded:
        assert "max_tokens must be 20 or less, got 21" in refused(bounded.chat(max_tokens=21), 400)["message"]
        assert bounded.chat(max_tokens=None).json()["usage"]["completion_tokens"] <= 20


def test_without_a_bound_of_the_server_s_the_context_ends_an_answer(client, model):
    prompt = [5] * (model.max_context - 30)
    asked = {"model": "tiny", "prompt": prompt, "extra_body": {"response_format": {"type": "regex", "regex": "a{300}"}}}
    answer = client.completions.create(max_tokens=100_000, **asked)
    assert answer.usage.completion_tokens == 30
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::1"])
def test_another_host_s_name_is_refused(served, host):
    assert "--allowed-host" in refused(httpx.get(f"{served.url}/health", headers={"host": host}), 421)["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "192.0.2.7"])
def test_localhost_and_addresses_are_let_in(served, host):
    assert httpx.get(f"{served.url}/health", headers={"host": host}).status_code == 200


def test_only_json_is_read_so_that_a_foreign_page_cannot_send_it(served):
    body = json.dumps({"messages": MESSAGES})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = httpx.post(f"{served.url}/v1/chat/completions", content=body, headers={"content-type": kind})
        assert refused(response, 415)
    preflight = httpx.options(f"{served.url}/v1/chat/completions", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1", b"\xff", b'{"messages": NaN}', b'"\\ud800"', b"[" * 100_000, b"1" * 5000, b"[]", b"null", b"7"],
    ids=repr,
)
def test_a_body_that_is_no_json_object_is_refused(served, body):
    headers = {"content-type": "application/json"}
    error = refused(httpx.post(f"{served.url}/v1/completions", content=body, headers=headers), 400)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("the body must be")
    assert len(error["message"]) < 250


def test_paths_and_methods_that_are_not_served_are_refused(served):
    assert "this server has no path" in refused(httpx.get(f"{served.url}/v1/files"), 404)["message"]
    assert refused(httpx.get(f"{served.url}/../../etc/passwd"), 404)
    assert refused(httpx.get(f"{served.url}/page/%2e%2e/app.py"), 404)
    response = httpx.get(f"{served.url}/v1/completions")
    assert "does not take the method" in refused(response, 405)["message"]
    assert response.headers["allow"] == "POST"


def test_an_error_of_the_server_reveals_nothing_about_it(served, monkeypatch, caplog):
    def fail(*_):
        raise OSError("/secret/path")

    monkeypatch.setattr(type(served.engine), "submit", fail)
    error = refused(served.chat(), 500)
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]
    assert "secret" in caplog.text
