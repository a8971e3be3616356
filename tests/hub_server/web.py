"""HTTP: routes requests to functions, logs them, and injects faults."""

import hashlib
import hmac
import json
import re
import socket
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from hub_server.store import Refused


@dataclass(frozen=True)
class Request:
    """A logged request: its phase, sender, bytes of its body that arrived, and status of the answer."""

    phase: str
    method: str
    path: str
    user: str | None
    received: int
    status: int | None


@dataclass
class Answer:
    """The answer of a function: JSON, unless `content` is given."""

    body: object = None
    status: int = 200
    headers: dict[str, str] | None = None
    content: bytes | None = None


@dataclass
class Call:
    """A request as functions receive it."""

    hub: object
    method: str
    path: str
    query: dict[str, list[str]]
    headers: object
    body: bytes
    user: str | None

    def json(self) -> dict:
        return json.loads(self.body)


class Dropped(Exception):
    """The connection is dropped."""


def handler_of(hub, routes) -> type[BaseHTTPRequestHandler]:
    """Return a handler for one origin.

    Args:
        routes: (methods, pattern of the path, phase, function(call, *groups) -> Answer), the first match is called.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def serve(self):
            split = urlsplit(self.path)
            self.received, self.user, self.status, self.is_logged = 0, None, None, False
            self.phase, function, groups = route(routes, self.command, split.path)
            try:
                self.strike(self.phase, lambda: self.answer(function, groups, split))
            except Dropped:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                self.log()

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

        def log(self) -> None:
            """Log the request once: before its answer, so that who has the answer finds it in the log."""
            if not self.is_logged:
                self.is_logged = True
                hub.log.append(Request(self.phase, self.command, self.path, self.user, self.received, self.status))

        def strike(self, phase: str, answer) -> None:
            fault = hub.faults.of(phase)
            how = fault.how if fault else None
            if how == "cut":
                self.read_body(share=0.5)
                raise Dropped
            if how == "hang":
                self.read_body(share=0.5)
                hub.faults.hanging.set()
                hub.faults.healed.wait()
                raise Dropped
            if isinstance(how, int):
                self.read_body()
                headers = {"Retry-After": "0"} if how == 429 else {}
                return self.send(Answer(status=how, content=b"<html>it is not you, it is us</html>", headers=headers))
            if how == "slow":
                time.sleep(fault.seconds)
            self.answer_is_lost = how == "lost"
            return answer()

        def answer(self, function, groups, split) -> None:
            body = self.read_body()
            try:
                self.user = self.who()
                query = parse_qs(split.query)
                answer = function(Call(hub, self.command, split.path, query, self.headers, body, self.user), *groups)
            except Refused as refusal:
                headers = {"X-Error-Message": refusal.message}
                headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
                answer = Answer({"error": refusal.message, **refusal.body}, refusal.status, headers)
            if self.answer_is_lost:
                raise Dropped
            self.send(answer)

        def who(self) -> str | None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token and token not in hub.store.users:
                raise Refused(401, "Invalid credentials in Authorization header")
            return hub.store.users.get(token)

        def read_body(self, share: float = 1.0) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = b"".join(self.chunks())
            else:
                body = self.rfile.read(int(int(self.headers.get("Content-Length") or 0) * share))
            self.received += len(body)
            return body

        def chunks(self):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def send(self, answer: Answer) -> None:
            is_json = answer.content is None
            content = json.dumps(answer.body).encode() if is_json else answer.content
            headers = {"Content-Length": str(len(content)), "X-Request-Id": "of-a-test"}
            headers |= {"Content-Type": "application/json"} if is_json else {}
            self.status = answer.status
            self.log()
            self.send_response(answer.status)
            for name, value in (headers | (answer.headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    return Handler


def route(routes, method: str, path: str):
    """Return (phase, function, groups of the pattern) of a request."""
    for methods, pattern, phase, function in routes:
        match = re.fullmatch(pattern, path)
        if match and method in methods.split():
            return phase, function, match.groups()
    return "unknown", nothing_here, ()


def nothing_here(call: Call) -> Answer:
    raise Refused(404, f"there is no {call.method} {call.path}")


def ranged(call: Call, content: bytes, headers: dict[str, str]) -> Answer:
    """Return a file, or the part that the Range header requests."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or "")
    if not wanted:
        return Answer(content=content, headers=headers)
    start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
    content_range = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Answer(content=content[start : end + 1], status=206, headers=headers | content_range)


def sign(hub, what: str) -> str:
    """Return the signature of a URL, which replaces a token."""
    return hmac.new(hub.secret, what.encode(), hashlib.sha256).hexdigest()
