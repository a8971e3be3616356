"""Runs `hfkit label` in forks of a process that has imported it, and speaks with its page over HTTP.

`LabelServers` starts servers, each a `LabelServer` with its URL; a `Labeler` logs in and judges.
"""

import gc
import http.client
import json
import os
import re
import signal
import sys
import time
import uuid
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from forked_commands import be_command
from forks import Worker
from network import LOCAL_PORTS

IMPORTS = (
    "hfkit.commands.label.main",
    "hfkit.commands.label.checks",
    "hfkit.commands.web.server",
    "hfkit.commands.label.app",
)
URL = re.compile(r"http://[\w.\[\]:-]+")
SECONDS = 60


class LabelServers:
    """Starts servers; use it in a `with` statement, which kills those that still run."""

    def __enter__(self):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import label_pages as l; l.serve()"
        self.worker, self.running = Worker(code, env={**os.environ, "COLUMNS": "200"}), []
        return self

    def __exit__(self, *_):
        for server in self.running:
            server.end(signal.SIGKILL)
        self.worker.close()

    def run(self, *argv: object, output: Path, **env: str) -> "LabelServer":
        """Start `hfkit label ARGV`, which may end by itself."""
        asked = {"argv": ["label", *map(str, argv)], "folder": str(output.parent), "output": str(output), "env": env}
        self.worker.send(asked)
        server = LabelServer(self.worker, self.worker.receive()["pid"], output)
        self.running.append(server)
        return server

    def start(self, *argv: object, output: Path, **env: str) -> "LabelServer":
        """Start `hfkit label ARGV` and wait until its page is there."""
        server, latest = self.run(*argv, output=output, **env), time.monotonic() + SECONDS
        while not (found := URL.search(server.printed())):
            assert time.monotonic() < latest and server.status() is None, server.printed()
            time.sleep(0.02)
        server.url = found[0]
        return server


class LabelServer:
    """A process of `hfkit label`; `url` is its page."""

    def __init__(self, worker: Worker, pid: int, output: Path):
        self.worker, self.pid, self.output, self.url, self._status = worker, pid, output, "", None

    def printed(self) -> str:
        """Return all that it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""

    def status(self) -> int | None:
        """Return its exit status, None while it runs."""
        if self._status is None:
            self.worker.send({"ended": self.pid})
            self._status = self.worker.receive()["status"]
        return self._status

    def end(self, number: int | None = None) -> int:
        """Send it a signal, if one is given, wait for its end, and return its exit status."""
        latest = time.monotonic() + SECONDS
        if number is not None and self.status() is None:
            os.kill(self.pid, number)
        while self.status() is None:
            assert time.monotonic() < latest, self.printed()
            time.sleep(0.01)
        return self._status


def request(
    url: str, method: str, path: str, body: object = None, source: str = "", **headers: str
) -> tuple[int, dict, object]:
    """Send a request, and return status, headers and content (decoded if it is JSON) of the response.

    `body` is sent as JSON, unless it is bytes; `Content_Type` is the header Content-Type; `source` is the address that
    it comes from.
    """
    where = urlsplit(url)
    LOCAL_PORTS.add(where.port)
    options = {"timeout": SECONDS, **({"source_address": (source, 0)} if source else {})}
    connection = http.client.HTTPConnection(where.hostname, where.port, **options)
    sent = {"Content-Type": "application/json"} if method == "POST" else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    is_json = response.getheader("content-type", "").startswith("application/json")
    return response.status, dict(response.getheaders()), json.loads(content) if is_json else content.decode()


class Labeler:
    """Someone who judges on a page.

    Args:
        retries: whether requests are repeated while the server is down, as the page does.
    """

    def __init__(self, url: str, name: str, password: str | None = None, retries: bool = False):
        self.url, self.name, self.retries = url, name, retries
        given = {"labeler": name, **({"password": password} if password else {})}
        status, headers, self.answer = self.send("POST", "/api/login", given)
        assert status == 200, self.answer
        self.cookie = headers["set-cookie"].partition(";")[0]

    def send(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict, object]:
        """Send a request with the session's cookie."""
        headers |= {"Cookie": self.cookie} if hasattr(self, "cookie") else {}
        latest = time.monotonic() + SECONDS
        while True:
            with suppress(*((OSError, http.client.HTTPException) if self.retries else ())):
                return request(self.url, method, path, body, **headers)
            assert time.monotonic() < latest, "the server did not come back"
            time.sleep(0.02)

    def next(self, *skipped: str) -> dict:
        """Return the next row and the progress."""
        query = "&".join(f"except={row}" for row in skipped)
        status, _, answer = self.send("GET", f"/api/next?{query}")
        assert status == 200, answer
        return answer

    def judge(self, row: dict, **fields: object) -> dict:
        """Judge a row: rank its responses as shown, unless `fields` say something else; return what follows."""
        ranks = [0] * len(row["replies"])
        for rank, reply in enumerate(row["replies"], start=1):
            ranks[reply["index"]] = rank
        event = {"id": str(uuid.uuid4()), "row": row["row"], "ranks": ranks, "seconds": 1.5, **fields}
        status, _, answer = self.send("POST", "/api/judgements", event)
        assert status == 200 and answer["saved"], answer
        return answer["next"]


def serve() -> None:
    """Start a command for each line of the input, until it ends: `argv`, `folder`, `output`, `env`; or `ended`."""
    answers = os.fdopen(os.dup(1), "w")
    for module in IMPORTS:
        import_module(module)
    gc.freeze()
    statuses = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if (pid := asked.get("ended")) is not None:
            ended, status = (0, 0) if pid in statuses else os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
            answer = {"status": statuses.get(pid)}
        else:
            pid = os.fork()
            if pid == 0:
                os.environ.update(asked["env"])
                be_command(asked["argv"], asked["folder"], asked["output"])
            answer = {"pid": pid}
        print(json.dumps(answer), file=answers, flush=True)
