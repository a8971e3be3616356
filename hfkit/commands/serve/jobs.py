"""The queue of requests, and the work on each: encode the prompt, generate the response.

The main thread works on the queue, since the time limits of chat templates need it (`data/template_limits.py`). The
HTTP server runs in another thread.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from hfkit.commands.chat.response_text import ResponseText
from hfkit.commands.serve.backends import Generated, Generation, ServingBackend
from hfkit.commands.serve.errors import ApiError
from hfkit.commands.serve.models import ServedModel, encode_request
from hfkit.commands.serve.requests import Request
from hfkit.commands.serve.tool_calls import call_format, find_calls
from hfkit.core.console import debug, warn
from hfkit.core.errors import HfkitError, reason
from hfkit.core.interrupts import interruption, requested

MOST_WAITING = 64
"""Requests that may wait; more get status 503, and clients send them again."""
CLOSING = "the server is shutting down"
CLIENT_GONE = 499
"""The status of a request whose client closed the connection; nobody reads it."""


@dataclass(frozen=True)
class Started:
    """The prompt of a job is encoded, and its response begins."""

    prompt_tokens: int


@dataclass(frozen=True)
class Finished:
    """The response of a job is complete.

    Args:
        text: without the tool calls.
        reason: `stop`, `length` or `tool_calls`.
    """

    text: str
    reason: str
    tokens: int
    tool_calls: list[dict]


Event = Started | str | Finished | ApiError
"""What a job reports: its start, pieces of text, and its end or an error."""


@dataclass(frozen=True, eq=False)
class Job:
    """A request in the queue.

    Args:
        report: takes each event, from any thread.
        cancelled: set when nobody waits for the response any more.
    """

    model: ServedModel
    request: Request
    report: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


@contextmanager
def errors_reported(job: Job) -> Iterator[None]:
    """Report an error to the client instead of raising it."""
    try:
        yield
    except ApiError as error:
        job.report(error)
    except Exception as error:
        debug(error)
        warn(f"a request failed: {reason(error)}")
        is_known = isinstance(error, (HfkitError, torch.OutOfMemoryError))
        job.report(ApiError(500, reason(error) if is_known else "the response could not be generated"))


class Jobs:
    """The jobs of a server.

    Args:
        length: most tokens of a response to a request that sets no maximum.
    """

    def __init__(self, backend: ServingBackend, length: int):
        self.backend, self.length = backend, length
        self.waiting: queue.Queue[Job] = queue.Queue(MOST_WAITING)
        self.is_closed = False
        self.running: set[Job] = set()

    def put(self, job: Job) -> None:
        """Add a job, from any thread.

        Raises:
            ApiError: too many are waiting, or the server ends.
        """
        if self.is_closed:
            raise ApiError(503, CLOSING)
        try:
            self.waiting.put_nowait(job)
        except queue.Full as error:
            raise ApiError(503, f"{MOST_WAITING} requests are waiting: try again later") from error

    def work(self, is_serving: Callable[[], bool]) -> None:
        """Work on the jobs while `is_serving`, until a signal arrives.

        Raises:
            KeyboardInterrupt, Interrupted: because of a signal.
            HfkitError: the backend has ended.
        """
        pool = ThreadPoolExecutor(self.backend.most_at_once) if self.backend.most_at_once > 1 else None
        try:
            while is_serving():
                if requested() is not None:  # its exception may have been lost in a destructor
                    raise interruption()
                self.backend.require_alive()
                try:
                    job = self.waiting.get(timeout=0.5)
                except queue.Empty:
                    continue
                self.running.add(job)
                self.start(job, pool)
        finally:
            self.close()
            if pool:
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End all jobs."""
        self.is_closed = True
        while not self.waiting.empty():
            self.running.add(self.waiting.get_nowait())
        for job in [*self.running]:
            job.cancelled.set()
            job.report(ApiError(503, CLOSING))

    def start(self, job: Job, pool: ThreadPoolExecutor | None) -> None:
        """Encode the prompt of a job, and generate its response here, or in a pool of threads."""
        ids: list[int] = []
        with errors_reported(job):
            require_wanted(job)
            ids = encode_request(job.model, job.request)
        if ids and pool:
            pool.submit(self.finish, job, ids)
        else:
            self.finish(job, ids)

    def finish(self, job: Job, ids: list[int]) -> None:
        """Generate the response to a prompt, if there is one, and end the job."""
        with errors_reported(job):
            if ids:
                self.generate(job, ids)
        self.running.discard(job)

    def generate(self, job: Job, ids: list[int]) -> None:
        """Generate a response, and report its start, its pieces and its end.

        With tools, the pieces come together at the end, since a call is known only when its JSON is complete.
        """
        request, model = job.request, job.model
        require_wanted(job)
        job.report(Started(len(ids)))
        text = ResponseText(request.stop, request.is_chat, (lambda piece: None) if request.tools else job.report)
        length = request.longest or self.length
        length = length if model.context is None else min(length, model.context - len(ids))

        def is_ended() -> bool:
            return job.cancelled.is_set() or text.is_stopped or bool(requested())

        generated = self.backend.generate(Generation(model, ids, request, length, text.add, is_ended))
        if requested() is not None and not (generated.is_ended or text.is_stopped):
            raise ApiError(503, CLOSING)  # the signal cut the response off: it did not reach its length
        text.end()
        content, calls = text.text, []
        if request.tools and not text.is_stopped:
            content, calls = self.split_calls(job, text.text, generated)
        if request.tools and content:
            job.report(content)
        ending = "tool_calls" if calls else "stop" if generated.is_ended or text.is_stopped else "length"
        job.report(Finished(content, ending, generated.tokens, calls))

    def split_calls(self, job: Job, text: str, generated: Generated) -> tuple[str, list[dict]]:
        """Return the text of a response without its tool calls, and these."""
        tokenizer, tools = job.model.tokenizer, job.request.tools or []
        form = call_format(tokenizer)
        names = {tool["function"]["name"] for tool in tools if isinstance(tool.get("function", {}).get("name"), str)}
        if form is None:
            return text, []
        content, calls = find_calls(generated.raw, form, names)
        return (content, calls) if calls else (text, [])


def require_wanted(job: Job) -> None:
    """Raise ApiError, which ends the handler of the request, if nobody waits for the response any more."""
    if job.cancelled.is_set():
        raise ApiError(CLIENT_GONE, "the client closed the connection")
