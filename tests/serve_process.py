"""A process of `hfkit serve`, and clients for it."""

import http.client
import json
import os
import re
import time
from contextlib import closing
from functools import cached_property
from pathlib import Path

import openai
from conftest import python_path
from forks import Fork
from network import LOCAL_PORTS

from hfkit.cli import main

ROOT = Path(__file__).parents[2]
SERVE = "import sys; from hfkit.cli import main; sys.exit(main())"
QUESTION = "What does Ann like?"
PROMPT = "Ann likes blue. The"
ASKED = [{"role": "user", "content": QUESTION}]
KEY = "a-key-of-the-test-0123456789"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
LIMIT = 60
"""Seconds that a step of a test may take."""


class Server:
    """A process of `hfkit serve`, its port, and clients for it."""

    def __init__(self, log: Path, *words: object):
        self.log, env = log, {**os.environ, "PYTHONPATH": python_path(ROOT), "HFKIT_API_KEY": ""}
        del env["HFKIT_API_KEY"]
        with log.open("w") as output, open(os.devnull) as nothing:
            self.process = Fork(SERVE, "serve", *words, "--port", 0, env=env, streams=[nothing, output, output])
        latest = time.monotonic() + LIMIT
        while not (found := re.search(r"serve: http://127\.0\.0\.1:(\d+)/v1", log.read_text())):
            assert self.process.poll() is None and time.monotonic() < latest, log.read_text()
            time.sleep(0.02)
        self.port = int(found[1])
        LOCAL_PORTS.add(self.port)

    @cached_property
    def openai(self) -> openai.OpenAI:
        """OpenAI's client, which does not retry."""
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=LIMIT)

    def send(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict, dict]:
        """Return status, JSON and headers of the response to a request; a `body` of bytes is sent as it is."""
        return send(self.port, method, path, body, **headers)


def send(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict, dict]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as connection:
        content = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if method == "POST" else {}
        connection.request(method, path, content, given | {k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else {}, dict(response.getheaders())


def chat_reply(model: Path, capsys, *words: str) -> str:
    """Return what `hfkit chat --prompt` prints at temperature 0."""
    capsys.readouterr()
    assert main(["chat", str(model), "--prompt", QUESTION, "--temperature", "0", *words]) == 0
    return capsys.readouterr().out.strip()


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
