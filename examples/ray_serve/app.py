"""A bundle behind Ray Serve: replicas on one machine or many, with the routes of `dovetail-ort serve`.

Usage:

    serve run app:build bundle=/models/smollm2 replicas=2 threads=4
    serve run app.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import BackpressureConfig
from starlette.applications import Starlette

import dovetail_ort
from dovetail_ort import GenerationOptions
from dovetail_ort.server import ServerSettings, make_app


class Settings(BaseModel):
    """Settings of the application from a command line or a file, checked before anything is loaded.

    Attributes:
        bundle: directory of the bundle, the same on every machine.
        model_name: name of the model in requests.
        replicas: number of copies of the model.
        threads: number of threads that one forward uses, and of processors that Ray keeps for a replica.
        max_ongoing_requests: largest number of requests in a replica: one is answered, the others wait.
        max_queued_requests: largest number of requests that wait in each proxy for a replica; further ones get status
            429.
        max_new_tokens: largest number of tokens of an answer.
        time_limit_seconds: seconds after which an answer ends.
        api_key_file: file whose first line is the key that requests must send as `Authorization: Bearer`; the same path
            on every machine.
        allowed_hosts: names by which clients may ask, beside localhost and IP addresses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    bundle: str
    model_name: str = "dovetail"
    replicas: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    max_ongoing_requests: int = Field(default=4, ge=1)
    max_queued_requests: int = Field(default=32, ge=0)
    max_new_tokens: int = Field(default=2048, ge=1)
    time_limit_seconds: float = Field(default=300.0, gt=0)
    api_key_file: str | None = None
    allowed_hosts: tuple[str, ...] = ()

    def server_settings(self) -> ServerSettings:
        """These settings as those of the server in a replica."""
        key_file = self.api_key_file
        return ServerSettings(
            model_name=self.model_name,
            answer=GenerationOptions(max_new_tokens=self.max_new_tokens),
            api_key=None if key_file is None else Path(key_file).read_text(encoding="ascii").partition("\n")[0].strip(),
            allowed_hosts=("localhost", *(name.lower() for name in self.allowed_hosts)),
            max_new_tokens=self.max_new_tokens,
            max_queue=self.max_ongoing_requests,  # Ray sends no more
            time_limit_seconds=self.time_limit_seconds,
        )


@serve.ingress()
class Replica:
    """One copy of the model and the application over it.

    Args:
        settings: settings of the application.
    """

    def __init__(self, settings: Settings) -> None:
        model = dovetail_ort.load(settings.bundle, threads=settings.threads)
        self._application = make_app(model, settings.server_settings())

    def __serve_build_asgi_app__(self) -> Starlette:  # the name that Ray asks for
        """The application that answers requests; Ray runs its lifespan."""
        return self._application

    def check_health(self) -> None:
        """Raise if the replica is broken; Ray then replaces it."""
        if not self._application.state.engine.serves:
            raise RuntimeError("the model's thread has ended; the replica's log says why")


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application that `serve run` and `serve deploy` start; arguments are those of `Settings`."""
    settings = Settings.model_validate(arguments)
    deployment = serve.deployment(
        Replica,
        name="Dovetail",
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        ray_actor_options={"num_cpus": settings.threads},
        graceful_shutdown_timeout_s=30,
    )
    return deployment.bind(settings)
