"""A bundle inside a FastAPI application of your own; needs `pip install fastapi uvicorn`.

    BUNDLE=path/to/bundle uvicorn --app-dir examples fastapi_app:app
    curl -N localhost:8000/answer -H 'Content-Type: application/json' -d '{"question": "Why is the sky blue?"}'

`dovetail-ort serve` and `dovetail_ort.server.make_app` give a whole server: OpenAI's routes, limits and a chat page.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

import dovetail_ort
from dovetail_ort import DovetailError, GenerationOptions, Model


@asynccontextmanager
async def loaded_model(app: FastAPI) -> AsyncIterator[None]:
    """Load the bundle when the application starts, close it when it ends."""
    with dovetail_ort.load(os.environ["BUNDLE"]) as model:
        app.state.model = model
        yield


app = FastAPI(lifespan=loaded_model)


class Question(BaseModel):
    """What a client sends."""

    question: str = Field(min_length=1, max_length=10_000)
    max_new_tokens: int = Field(default=200, ge=1, le=2000)


def the_model(request: Request) -> Model:
    """The model that `loaded_model` has loaded."""
    model: Model = request.app.state.model
    return model


# A plain function: FastAPI runs it in a thread, so the event loop goes on while the model works. Requests that come
# meanwhile wait for their turn in `Model.stream`.
@app.post("/answer")
def answer(question: Question, model: Annotated[Model, Depends(the_model)]) -> StreamingResponse:
    """The answer as plain text, token by token."""
    options = GenerationOptions(max_new_tokens=question.max_new_tokens)
    try:
        pieces = model.stream([{"role": "user", "content": question.question}], options)
    except DovetailError as error:
        raise HTTPException(422, str(error)) from error

    def texts() -> Iterator[str]:
        for piece in pieces:
            yield piece.text

    return StreamingResponse(texts(), media_type="text/plain; charset=utf-8")
