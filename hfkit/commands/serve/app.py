"""The HTTP side of the server: its routes, and responses in OpenAI's format, whole or as server-sent events."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from uuid import uuid4

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from hfkit.commands.serve.errors import ApiError
from hfkit.commands.serve.feedback import Answered, FeedbackFile
from hfkit.commands.serve.guard import Guard
from hfkit.commands.serve.jobs import Event, Finished, Job, Jobs, Started
from hfkit.commands.serve.models import find_model
from hfkit.commands.serve.requests import Request, read_chat, read_completion
from hfkit.commands.web.body import BodyError, read_json_object
from hfkit.core.console import debug, warn
from hfkit.core.errors import reason

MOST_BYTES = 4 << 20
"""Maximum bytes of a request."""
SECONDS_TO_SEND = 60
"""Seconds within which a client must send a request."""
read_post = partial(read_json_object, most_bytes=MOST_BYTES, seconds=SECONDS_TO_SEND)


class Answer:
    """One response: reads the events of its job, and writes them in OpenAI's format."""

    def __init__(self, request: Request, jobs: Jobs, name: str, feedback: FeedbackFile | None):
        self.request, self.feedback, self.name = request, feedback, name
        self.created, kind = int(time.time()), "chatcmpl" if request.is_chat else "cmpl"
        self.id = f"{kind}-{uuid4().hex}"
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.prompt_tokens, loop = 0, asyncio.get_running_loop()
        self.watch: asyncio.Task | None = None  # a task without a reference may be collected

        def report(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(self.events.put_nowait, event)

        self.job = Job(jobs.backend.models[name], request, report)
        jobs.put(self.job)

    async def start(self) -> None:
        """Wait until the response begins.

        Raises:
            ApiError: it cannot.
        """
        event = await self.events.get()
        if isinstance(event, ApiError):
            raise event
        if isinstance(event, Started):
            self.prompt_tokens = event.prompt_tokens

    async def whole(self) -> dict:
        """Return the whole response as JSON.

        Raises:
            ApiError: it could not be generated.
        """
        while not isinstance(event := await self.events.get(), Finished):
            if isinstance(event, ApiError):
                raise event
        self.keep(event)
        if self.request.is_chat:
            message: dict = {"role": "assistant", "content": event.text or (None if event.tool_calls else "")}
            message |= {"refusal": None} | ({"tool_calls": event.tool_calls} if event.tool_calls else {})
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": event.reason}
        else:
            choice = {"index": 0, "text": event.text, "logprobs": None, "finish_reason": event.reason}
        return self.envelope([choice], chunk=False) | {"usage": self.usage(event)}

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the response as server-sent events; when nobody reads on, cancel the job."""
        try:
            if self.request.is_chat:
                yield self.chunk({"role": "assistant", "content": ""})
            while not isinstance(event := await self.events.get(), Finished):
                if isinstance(event, ApiError):
                    yield sse(event.content())
                    return
                if isinstance(event, str):
                    yield self.chunk({"content": event})
            self.keep(event)
            if event.tool_calls:
                yield self.chunk({"tool_calls": [{"index": at, **call} for at, call in enumerate(event.tool_calls)]})
            yield self.chunk({}, event.reason)
            if self.request.stream_options.include_usage:
                yield sse(self.envelope([], chunk=True) | {"usage": self.usage(event)})
            yield "data: [DONE]\n\n"
        finally:
            self.job.cancelled.set()

    def chunk(self, delta: dict, ending: str | None = None) -> str:
        """Return a piece of the response as a server-sent event."""
        shown = {"delta": delta} if self.request.is_chat else {"text": delta.get("content", "")}
        choice = {"index": 0, **shown, "logprobs": None, "finish_reason": ending}
        return sse(
            self.envelope([choice], chunk=True) | ({"usage": None} if self.request.stream_options.include_usage else {})
        )

    def envelope(self, choices: list[dict], chunk: bool) -> dict:
        """Return the fields that all objects of a response have."""
        kind = "text_completion" if not self.request.is_chat else f"chat.completion{'.chunk' if chunk else ''}"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name, "choices": choices}

    def usage(self, end: Finished) -> dict:
        """Return the numbers of tokens."""
        both = {"prompt_tokens": self.prompt_tokens, "completion_tokens": end.tokens}
        return {**both, "total_tokens": sum(both.values())}

    def keep(self, end: Finished) -> None:
        """Keep the response for feedback on it."""
        if self.feedback is None or not self.request.is_chat:
            return
        message = {"role": "assistant", "content": end.text, "tool_calls": end.tool_calls}
        answered = Answered(
            self.name, self.request.prompt, self.request.tools, [message] if end.tool_calls else end.text
        )
        self.feedback.keep(self.id, answered)


def sse(content: dict) -> str:
    """Return JSON as a server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def respond(http: HTTPRequest, request: Request, jobs: Jobs, feedback: FeedbackFile | None) -> Response:
    """Return the response to a request; if the client goes away, its job ends.

    Raises:
        ApiError: the request cannot be answered.
    """
    answer = Answer(request, jobs, find_model(jobs.backend.models, request.model).name, feedback)
    answer.watch = asyncio.create_task(cancel_when_gone(http, answer.job.cancelled))
    await answer.start()
    if not request.stream:
        return JSONResponse(await answer.whole())
    return StreamingResponse(answer.pieces(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def cancel_when_gone(http: HTTPRequest, cancelled: threading.Event) -> None:
    """Set `cancelled` when the client closes the connection, or has the whole response."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
    cancelled.set()


def build_app(jobs: Jobs, key: str | None, origins: list[str], feedback: FeedbackFile | None, system: str | None):
    """Return the ASGI application.

    Args:
        key: that requests must have; None: no key.
        origins: of pages whose scripts may send requests.
        feedback: where feedback is written; None: it is not accepted.
        system: system prompt of conversations without one.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_model_routes(app, jobs)
    add_response_routes(app, jobs, feedback, system)
    add_error_handlers(app)
    app.add_middleware(Guard, key=key, origins=origins)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    return app


def add_model_routes(app: FastAPI, jobs: Jobs) -> None:
    """Add the routes about the server and its models."""
    common = {"object": "model", "created": int(time.time()), "owned_by": "hfkit"}
    entries = {name: {"id": name, **common} for name in jobs.backend.models}

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "closing" if jobs.is_closed else "ok"}, 503 if jobs.is_closed else 200)

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [*entries.values()]})

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Response:
        return JSONResponse(entries[find_model(jobs.backend.models, name).name])


def add_response_routes(app: FastAPI, jobs: Jobs, feedback: FeedbackFile | None, system: str | None) -> None:
    """Add the routes that generate responses, and the one for feedback on them."""

    @app.post("/v1/chat/completions")
    async def chat(request: HTTPRequest) -> Response:
        return await respond(request, read_chat(await read_post(request), system), jobs, feedback)

    @app.post("/v1/completions")
    async def complete(request: HTTPRequest) -> Response:
        return await respond(request, read_completion(await read_post(request)), jobs, feedback)

    if feedback is not None:

        @app.post("/v1/feedback")
        async def add_feedback(request: HTTPRequest) -> Response:
            rows = await asyncio.to_thread(feedback.add, await read_post(request))
            return JSONResponse({"object": "feedback", "rows": rows})


def add_error_handlers(app: FastAPI) -> None:
    """Answer errors with OpenAI's JSON."""

    @app.exception_handler(ApiError)
    async def on_api_error(request: HTTPRequest, error: ApiError) -> Response:
        return JSONResponse(error.content(), error.status, {"Retry-After": "1"} if error.status == 503 else None)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: HTTPRequest, error: HTTPException) -> Response:
        message, code = error.detail, getattr(error, "code", None)
        if not isinstance(error, BodyError):
            hint = ": start the server with --feedback FILE" if request.url.path == "/v1/feedback" else ""
            message = f"{request.method} {request.url.path}: {message}{hint}"
        answer = ApiError(error.status_code, message, code=code)
        return JSONResponse(answer.content(), error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: HTTPRequest, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.exception_handler(OSError)
    async def on_file_error(request: HTTPRequest, error: OSError) -> Response:
        debug(error)
        warn(f"{request.url.path} failed: {reason(error)}")
        return JSONResponse(ApiError(500, "the server could not write a file").content(), 500)
