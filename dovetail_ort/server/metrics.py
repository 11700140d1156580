"""Counters and times of the server, for Prometheus. It knows no request's text."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dovetail_ort.server.job import Job

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SECONDS_A_TOKEN: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512)


class ServerMetrics:
    """Counters, gauges and histograms in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "dovetail_requests", "Requests by route and HTTP status.", ["route", "status"], registry=registry
        )
        self.queue_length = Gauge("dovetail_queue_length", "Requests that wait for the model.", registry=registry)
        self.running = Gauge("dovetail_running", "Requests that the model is answering, 0 or 1.", registry=registry)
        self._answers = Counter(
            "dovetail_answers", "Answers by how they ended, aborted ones too.", ["finish_reason"], registry=registry
        )
        self._tokens = {
            name: Counter(f"dovetail_{name}_tokens", f"{what}.", registry=registry)
            for name, what in (
                ("prompt", "Tokens of prompts"),
                ("cached", "Tokens of prompts that were not read again, of answers that were not cut off"),
                ("new", "Tokens of answers"),
                ("drafted", "Draft tokens that were verified, of answers that were not cut off"),
                ("accepted", "Draft tokens that became part of an answer"),
            )
        }
        self._rounds = Counter(
            "dovetail_rounds", "Forwards after the prompt, of answers that were not cut off.", registry=registry
        )
        self._time_to_first_token = Histogram(
            "dovetail_time_to_first_token_seconds",
            "From the request to its answer's first token, the time in the queue included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._time_per_token = Histogram(
            "dovetail_time_per_token_seconds",
            "Mean of an answer's tokens after the first.",
            buckets=_SECONDS_A_TOKEN,
            registry=registry,
        )

    def count(self, job: Job) -> None:
        """Count an answer that has ended, in whatever way."""
        self._answers.labels(job.finish_reason or "aborted").inc()
        self._tokens["prompt"].inc(job.prompt_tokens)
        self._tokens["new"].inc(job.num_tokens)
        self._tokens["accepted"].inc(job.num_accepted)
        if job.num_tokens:
            self._time_to_first_token.observe(job.first_token - job.submitted)
        if job.num_tokens > 1:
            self._time_per_token.observe((job.last_token - job.first_token) / (job.num_tokens - 1))
        if job.statistics is not None:
            self._tokens["cached"].inc(job.statistics.cached_tokens)
            self._tokens["drafted"].inc(job.statistics.drafted_tokens)
            self._rounds.inc(job.statistics.rounds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
