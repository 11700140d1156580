"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def counted(model, serving):
    """`counted()`: value of every sample, after two answers and a refusal."""
    with serving(model) as served:
        assert served.chat("dovetail dovetail dovetail dovetail", max_tokens=40).status_code == 200
        assert served.chat(max_tokens=10, stream=True).status_code == 200
        assert served.chat(max_tokens=0).status_code == 400
        assert httpx.get(f"{served.url}/strange/path").status_code == 404
        response = httpx.get(f"{served.url}/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        yield {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }


def test_metrics_are_prometheus_text_and_count_what_happened(counted):
    assert counted["dovetail_requests_total", "/v1/chat/completions", "200"] == 2
    assert counted["dovetail_requests_total", "/v1/chat/completions", "400"] == 1
    assert counted["dovetail_requests_total", "other", "404"] == 1
    assert counted["dovetail_answers_total", "length"] == 2
    assert counted["dovetail_new_tokens_total",] == 50
    assert counted["dovetail_prompt_tokens_total",] > counted["dovetail_cached_tokens_total",] >= 0
    assert counted["dovetail_drafted_tokens_total",] >= counted["dovetail_accepted_tokens_total",] > 0
    assert counted["dovetail_rounds_total",] == 48 - counted["dovetail_accepted_tokens_total",]
    assert counted["dovetail_time_to_first_token_seconds_count",] == 2
    assert counted["dovetail_time_per_token_seconds_count",] == 2
    assert counted["dovetail_queue_length",] == counted["dovetail_running",] == 0


def test_no_sample_is_named_after_what_a_stranger_asked_for(counted):
    assert not any("strange" in str(part) for sample in counted for part in sample)


def test_health_is_reported_while_the_server_serves(served):
    response = httpx.get(f"{served.url}/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
