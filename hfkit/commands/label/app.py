"""The application of the page: what it shows, and what it saves.

All handlers run in one event loop, so that they change the state one at a time.
"""

import hashlib
import socket
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from markdown_it import MarkdownIt
from starlette.exceptions import HTTPException

from hfkit.commands.label.assignment import Assignment, shuffled
from hfkit.commands.label.events import SentEvent, checked_event, read_sent, texts_in
from hfkit.commands.label.guard import guard, read_body
from hfkit.commands.label.labels_file import UNDO, LabelsFile, now
from hfkit.commands.label.rows import Row
from hfkit.commands.label.sessions import Sessions, labeler_name
from hfkit.commands.web.hosts import is_this_machine
from hfkit.config.labeling import LabelConfig
from hfkit.core.errors import reason

PAGE = Path(__file__).with_name("page")
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SESSION_SECONDS = 30 * 86_400
LINKS = ("http://", "https://", "mailto:")
ANOTHER_EVENT = "this id is another event's"


class LabelPage:
    """The handlers of the page, and their state.

    Args:
        password: None: a name is enough.

    Attributes:
        assignment: who has judged what.
    """

    def __init__(self, config: LabelConfig, rows: list[Row], saved: LabelsFile, password: str | None):
        folder = Path(config.output_dir)
        self.config, self.saved, self.rows = config, saved, {row.key: row for row in rows}
        self.assignment = Assignment(list(self.rows), saved, config.overlap, config.seed)
        self.sessions = Sessions(folder / "sessions.json", password)
        self.cookie = f"hfkit_label_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
        self.files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.suffix in PAGE_TYPES}
        self.about = {
            "title": folder.name,
            "project": self.cookie,  # the browser keeps the drafts of each folder apart
            "guide": render_guide(config.guide),
            "flags": config.flags,
            "total": len(rows),
            "needs_password": password is not None,
        }

    def application(self) -> FastAPI:
        """Return the application."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        own_name = [] if is_this_machine(self.config.host) else [socket.gethostname()]
        app.middleware("http")(guard([self.config.host, *own_name, *self.config.allowed_hosts]))
        app.exception_handler(HTTPException)(explain)
        app.exception_handler(Exception)(explain_bug)
        for path, handler in {
            "/": self.page,
            "/api/setup": self.setup,
            "/api/next": self.next_row,
            "/api/rows/{key}": self.one_row,
            "/{name}": self.file,
        }.items():
            app.get(path)(handler)
        for path, handler in {"login": self.login, "judgements": self.judge, "undo": self.undo}.items():
            app.post(f"/api/{path}")(handler)
        return app

    async def page(self) -> Response:
        """Return the page."""
        return await self.file("index.html")

    async def file(self, name: str) -> Response:
        """Return a file of the page; there are no others."""
        if name not in self.files:
            raise HTTPException(404, "no such page")
        return Response(self.files[name], media_type=PAGE_TYPES[Path(name).suffix])

    async def setup(self, request: Request) -> dict:
        """Return what the page shows before anyone has logged in, and who has."""
        return {**self.about, "labeler": self.sessions.labeler(request.cookies.get(self.cookie))}

    async def login(self, request: Request) -> Response:
        """Start a session."""
        given = await read_body(request)
        name = labeler_name(given.get("labeler"))
        if name is None:
            raise HTTPException(422, "labeler: 1 to 40 letters, digits, spaces, or . ' @ - _")
        address = request.client.host if request.client else ""
        if not await self.sessions.is_allowed(given.get("password"), address):
            raise HTTPException(403, "wrong password")
        response = JSONResponse({"labeler": name})
        token = self.sessions.start(name)
        response.set_cookie(self.cookie, token, max_age=SESSION_SECONDS, httponly=True, samesite="strict")
        return response

    async def next_row(self, request: Request) -> dict:
        """Return the row to judge next."""
        return self.next_for(self.labeler_of(request), request.query_params.getlist("except"))

    async def one_row(self, request: Request, key: str) -> dict:
        """Return a row again, to judge it once more."""
        labeler = self.labeler_of(request)
        if key not in self.rows:
            raise HTTPException(404, "no such row")
        return {"row": self.row_for_page(key, labeler), **self.assignment.progress(labeler)}

    async def judge(self, request: Request) -> dict:
        """Save a judgement or a skip, once, and return the row to judge next."""
        labeler = self.labeler_of(request)
        given = await read_body(request)
        key, known = given.get("row"), self.saved.ids.get(read_sent(SentEvent, given).id)
        if known is None:
            if not isinstance(key, str) or key not in self.rows:
                raise HTTPException(404, "no such row")
            self.save(checked_event(given, labeler, self.rows[key], self.config.flags))
        elif (known["labeler"], known["row"]) != (labeler, key) or known["kind"] == UNDO:
            raise HTTPException(409, ANOTHER_EVENT)
        return {"saved": True, "next": self.next_for(labeler, texts_in(given.get("except")))}

    async def undo(self, request: Request) -> dict:
        """Undo the labeler's last judgement or skip, once, and return its row with it."""
        labeler, saved = self.labeler_of(request), self.saved
        identity = read_sent(SentEvent, await read_body(request)).id
        if identity not in saved.ids:
            last = saved.last_of(labeler, self.rows)
            if last is None:
                raise HTTPException(409, "nothing to undo")
            event = {"id": identity, "kind": UNDO, "labeler": labeler, "row": last["row"], "time": now()}
            self.save(event | {"undoes": last["id"]})
        event = saved.ids[identity]
        if event["kind"] != UNDO or event["labeler"] != labeler or event["row"] not in self.rows:
            raise HTTPException(409, ANOTHER_EVENT)
        self.assignment.hold(event["row"], labeler)
        undone = self.row_for_page(event["row"], labeler, saved.ids[event["undoes"]])
        return {"row": undone, **self.assignment.progress(labeler)}

    def labeler_of(self, request: Request) -> str:
        """Return who sent a request."""
        name = self.sessions.labeler(request.cookies.get(self.cookie))
        if name is None:
            raise HTTPException(401, "log in first")
        return name

    def next_for(self, labeler: str, skipped: list[str]) -> dict:
        """Return the row to judge next, and the progress."""
        key = self.assignment.next_row(labeler, skipped)
        return {"row": key and self.row_for_page(key, labeler), **self.assignment.progress(labeler)}

    def row_for_page(self, key: str, labeler: str, judgement: dict | None = None) -> dict:
        """Return a row as the page gets it; models and scores never leave the server."""
        row = self.rows[key]
        texts = row.shown_replies()
        order = shuffled(len(texts), self.config.seed, labeler, key)
        return {
            "row": key,
            "prompt": row.shown_prompt(),
            "replies": [{"index": index, "text": texts[index]} for index in order],
            "judgement": judgement or self.saved.current(labeler, key),
        }

    def save(self, event: dict) -> None:
        """Write an event to the disk, and take it into account."""
        try:
            self.saved.add([event])
        except OSError as error:
            raise HTTPException(507, f"not saved: {reason(error)}") from error
        self.assignment.update(event["labeler"], event["row"])


async def explain(_: Request, error: HTTPException) -> Response:
    """Return an error as JSON."""
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def explain_bug(_: Request, error: Exception) -> Response:
    """Return an unexpected error as JSON."""
    return JSONResponse({"error": reason(error)}, 500)


def render_guide(path: str | None) -> str:
    """Return the HTML of a Markdown file, in which HTML is text, and images are left out; "" without a file.

    Only links to other sites and mail addresses are links. They open in another tab.
    """
    if path is None:
        return ""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    markdown.validateLink = lambda url: url.lower().startswith(LINKS)
    tokens = markdown.parse(Path(path).read_text(encoding="utf-8"))
    for token in (one for block in tokens for one in (block, *(block.children or ()))):
        if token.type == "link_open":
            token.attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
        elif token.type in ("heading_open", "heading_close"):
            token.tag = "h3"  # below the titles of the page
    return markdown.renderer.render(tokens, markdown.options, {})
