"""The page's server: a FastAPI application, and the thread that runs it.

All handlers run in one event loop, so that they change the state one at a time.
"""

import asyncio
import hashlib
import ipaddress
import os
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from markdown_it import MarkdownIt

from hfkit.commands.label.assignment import Assignment, shuffled
from hfkit.commands.label.checks import is_loopback
from hfkit.commands.label.labels_file import JUDGEMENT, SKIP, UNDO, LabelsFile, now
from hfkit.commands.label.rows import Row
from hfkit.commands.label.sessions import NAME, Sessions
from hfkit.config.labeling import LabelConfig
from hfkit.core.errors import HfkitError, reason
from hfkit.core.limits import load_json

PAGE = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_BODY = 1 << 20
BODY_SECONDS = 30.0
MAX_TEXT = 200_000
"""Characters of an answer or a note."""
MAX_SECONDS = 86_400.0
EVENT_ID = re.compile(r"[0-9A-Za-z-]{8,64}")
LOCAL_NAMES = ("localhost",)
CLOSE = {"Connection": "close"}
"""Of an answer to a body that was not read to its end: the rest is not read either."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make_app(
    config: LabelConfig, rows: list[Row], saved: LabelsFile, password: str | None
) -> tuple[FastAPI, Assignment]:
    """Return the application, and who has judged what.

    Args:
        password: None: a name is enough.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    folder = Path(config.output_dir)
    by_key = {row.key: row for row in rows}
    assignment = Assignment(list(by_key), saved, config.overlap, config.seed)
    sessions = Sessions(folder / "sessions.json", password)
    cookie = f"hfkit_label_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
    files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.suffix in TYPES}
    guide = render_guide(config.guide)
    app.middleware("http")(
        guard([config.host, *([] if is_loopback(config.host) else [socket.gethostname()]), *config.allowed_hosts])
    )

    @app.exception_handler(HTTPException)
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def explain(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def explain_bug(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": reason(error)}, 500)

    def labeler_of(request: Request) -> str:
        name = sessions.labeler(request.cookies.get(cookie))
        if name is None:
            raise HTTPException(401, "log in first")
        return name

    def shown(key: str | None, labeler: str, judgement: dict | None = None) -> dict | None:
        """Return a row as the page gets it; models and scores never leave the server."""
        if key is None:
            return None
        row = by_key[key]
        texts = row.shown_replies()
        order = shuffled(len(texts), config.seed, labeler, key)
        return {
            "row": key,
            "prompt": row.shown_prompt(),
            "replies": [{"index": index, "text": texts[index]} for index in order],
            "judgement": judgement or saved.current(labeler, key),
        }

    def next_for(labeler: str, skipped: tuple[str, ...] = ()) -> dict:
        row = shown(assignment.next_row(labeler, skipped), labeler)
        return {"row": row, **assignment.progress(labeler)}

    def save(event: dict) -> None:
        try:
            saved.add([event])
        except OSError as error:
            raise HTTPException(507, f"not saved: {reason(error)}") from error
        assignment.update(event["labeler"], event["row"])

    @app.get("/")
    async def page() -> Response:
        return Response(files["index.html"], media_type=TYPES[".html"])

    @app.get("/api/setup")
    async def setup(request: Request) -> dict:
        return {
            "title": folder.name,
            "guide": guide,
            "flags": config.flags,
            "total": len(rows),
            "needs_password": password is not None,
            "labeler": sessions.labeler(request.cookies.get(cookie)),
        }

    @app.post("/api/login")
    async def login(request: Request) -> Response:
        given = await read_body(request)
        name = given.get("labeler")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise HTTPException(422, "labeler: 1 to 40 letters, digits, spaces, or . ' @ - _")
        if not await sessions.is_allowed(given.get("password")):
            raise HTTPException(403, "wrong password")
        response = JSONResponse({"labeler": name})
        response.set_cookie(cookie, sessions.start(name), max_age=30 * 86_400, httponly=True, samesite="strict")
        return response

    @app.get("/api/next")
    async def next_row(request: Request) -> dict:
        return next_for(labeler_of(request), tuple(request.query_params.getlist("except")))

    @app.get("/api/rows/{key}")
    async def one_row(request: Request, key: str) -> dict:
        labeler = labeler_of(request)
        if key not in by_key:
            raise HTTPException(404, "no such row")
        return {"row": shown(key, labeler), **assignment.progress(labeler)}

    @app.post("/api/judgements")
    async def judge(request: Request) -> dict:
        labeler = labeler_of(request)
        given = await read_body(request)
        if event_id(given) not in saved.ids:
            key = given.get("row")
            if not isinstance(key, str) or key not in by_key:
                raise HTTPException(404, "no such row")
            save(event_of(given, labeler, by_key[key], config.flags))
        return {"saved": True, "next": next_for(labeler, tuple(names_in(given.get("except"))))}

    @app.post("/api/undo")
    async def undo(request: Request) -> dict:
        labeler = labeler_of(request)
        given = await read_body(request)
        identity = event_id(given)
        if identity not in saved.ids:
            last = saved.last_of(labeler)
            if last is None or last["row"] not in by_key:
                raise HTTPException(409, "nothing to undo")
            event = {"id": identity, "kind": UNDO, "labeler": labeler, "row": last["row"], "time": now()}
            save(event | {"undoes": last["id"]})
        event = saved.ids[identity]
        if event["kind"] != UNDO or event["labeler"] != labeler or event["row"] not in by_key:
            raise HTTPException(409, "this id is another event's")
        assignment.hold(event["row"], labeler)
        undone = shown(event["row"], labeler, saved.ids[event["undoes"]])
        return {"row": undone, **assignment.progress(labeler)}

    @app.get("/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such page")
        return Response(files[name], media_type=TYPES[Path(name).suffix])

    return app, assignment


def guard(names: Collection[str]) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Return a middleware that rejects foreign hosts and origins, and adds `HEADERS`.

    Args:
        names: by which browsers may reach the page, in addition to IP addresses and `LOCAL_NAMES`.
    """
    known = {name.lower() for name in (*LOCAL_NAMES, *names)}

    async def checked(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        fault = host_fault(request, known) or (origin_fault(request) if request.method == "POST" else None)
        response = JSONResponse({"error": fault}, 403) if fault else await call_next(request)
        response.headers.update(HEADERS)
        return response

    return checked


def host_fault(request: Request, names: set[str]) -> str | None:
    """Return why a request's Host header is rejected, or None.

    With a foreign name, the browser believes that the page belongs to another site (DNS rebinding). An address cannot
    be rebound.
    """
    with suppress(ValueError):
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if name in names or ipaddress.ip_address(name):
            return None
    return "this name does not lead to this page: start hfkit label with --allowed_hosts NAME"


def origin_fault(request: Request) -> str | None:
    """Return why a POST is rejected, or None: another site's page may have sent it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "the content type must be application/json"
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    is_own = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    return None if is_own and site in ("same-origin", "none") else "sent by another site"


def render_guide(path: str | None) -> str:
    """Return the HTML of a Markdown file, in which HTML is text, and images are left out; "" without a file."""
    if path is None:
        return ""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return markdown.render(Path(path).read_text(encoding="utf-8"))


async def read_body(request: Request) -> dict:
    """Return the JSON object of a request."""

    async def collect() -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise HTTPException(413, f"larger than {MAX_BODY:,} bytes", CLOSE)
        return bytes(body)

    try:
        given = load_json((await asyncio.wait_for(collect(), BODY_SECONDS)).decode())
    except asyncio.TimeoutError as error:
        raise HTTPException(408, "too slow", CLOSE) from error
    except ValueError as error:
        raise HTTPException(400, "not JSON") from error
    if not isinstance(given, dict):
        raise HTTPException(400, "not a JSON object")
    return given


def event_id(given: dict) -> str:
    """Return the id of an event, which the browser chooses, so that a repeated request is recognized."""
    identity = given.get("id")
    if not isinstance(identity, str) or not EVENT_ID.fullmatch(identity):
        raise HTTPException(422, "id: 8 to 64 letters, digits or hyphens")
    return identity


def event_of(given: dict, labeler: str, row: Row, flags: list[str]) -> dict:
    """Return the event to save, after checking every field."""
    kind, count = given.get("kind", JUDGEMENT), len(row.replies)
    require(kind in (JUDGEMENT, SKIP), f"kind: {JUDGEMENT} or {SKIP}")
    seconds = given.get("seconds", 0.0)
    require(is_number(seconds) and seconds >= 0, "seconds: a number that is not negative")
    event = {"id": event_id(given), "kind": kind, "labeler": labeler, "row": row.key, "time": now()}
    event["seconds"] = round(min(float(seconds), MAX_SECONDS), 2)
    ranks, bad, answer = given.get("ranks"), given.get("all_bad", False), given.get("answer")
    given_flags, note = given.get("flags") or [[] for _ in row.replies], given.get("note") or ""
    require(
        ranks is None or are_ranks(ranks, count),
        f"ranks: null, or {count} ranks from 1 to {count} or null, in the order of the row's responses",
    )
    require(isinstance(bad, bool), "all_bad: true or false")
    require(answer is None or is_text(answer), f"answer: null or text of at most {MAX_TEXT:,} characters")
    require(is_text(note), f"note: text of at most {MAX_TEXT:,} characters")
    require(
        isinstance(given_flags, list)
        and len(given_flags) == count
        and all(isinstance(own, list) and all(one in flags for one in own) for own in given_flags),
        f"flags: {count} lists of the flags {', '.join(flags)}",
    )
    answer = (answer or "").strip() or None
    if kind == JUDGEMENT:
        is_judged = bad or answer or (ranks is not None and any(rank is not None for rank in ranks))
        require(bool(is_judged), "rank the responses, mark all as bad, or write an answer")
    else:
        ranks, bad, answer = None, False, None
    return event | {"ranks": ranks, "all_bad": bad, "answer": answer, "flags": given_flags, "note": note}


def require(is_valid: bool, fault: str) -> None:
    """Reject a request unless it is valid."""
    if not is_valid:
        raise HTTPException(422, fault)


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def are_ranks(value: object, count: int) -> bool:
    """Return whether a JSON value has a rank, or null, for each of `count` responses."""
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(one is None or (type(one) is int and 1 <= one <= count) for one in value)


def is_text(value: object) -> bool:
    """Return whether a JSON value is a text that may be saved; UTF-8 cannot hold half of a surrogate pair."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    with suppress(UnicodeEncodeError):
        value.encode()
        return True
    return False


def names_in(value: object) -> list[str]:
    """Return the texts in a JSON list."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        HfkitError: the port is in use, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        remedy = "choose another one, or --port 0 for a free one"
        raise HfkitError(f"cannot listen on {host}, port {port} ({os.strerror(error.errno or 0)}): {remedy}") from error
    return bound


class PageServer:
    """Serves an application from a thread; use it in a `with` statement.

    Args:
        bound: the socket; it is closed at the end.
    """

    def __init__(self, app: FastAPI, bound: socket.socket):
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=500,
            timeout_graceful_shutdown=2,
        )
        self._server, self._bound = uvicorn.Server(settings), bound
        self._ended = threading.Event()  # Thread.join marks a thread as ended if a signal interrupts it (Python < 3.13)

    def _run(self) -> None:
        try:
            self._server.run([self._bound])
        finally:
            self._ended.set()

    def __enter__(self) -> "PageServer":
        threading.Thread(target=self._run, name="page", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.should_exit = True
        self._ended.wait(5)
        self._bound.close()

    def wait(self, seconds: float) -> bool:
        """Wait so long at most, and return whether the server still runs."""
        return not self._ended.wait(seconds)


def address_of(bound: socket.socket) -> str:
    """Return the URL of a page."""
    host, port = bound.getsockname()[:2]
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
