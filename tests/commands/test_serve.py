"""`hfkit serve`: a real server on 127.0.0.1, and the clients that talk to it."""

import http.client
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path

import openai
import pytest
from conftest import python_path
from forks import Fork
from network import LOCAL_PORTS
from transformers import GenerationConfig

from hfkit.cli import main
from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.serve.app import MOST_BYTES, build_app
from hfkit.commands.serve.backends import Generated, Generation, TransformersBackend
from hfkit.commands.serve.feedback import FeedbackFile
from hfkit.commands.serve.jobs import MOST_WAITING, Job, Jobs, Started
from hfkit.commands.serve.models import ServedModel, name_models
from hfkit.commands.serve.requests import Request, read_chat, read_completion
from hfkit.commands.serve.response_text import ResponseText
from hfkit.commands.serve.tool_calls import call_format, find_calls
from hfkit.commands.serve.vllm import VLLMBackend, chosen_backend, find_vllm
from hfkit.commands.web.server import ServerThread, open_socket
from hfkit.core.console import printable
from hfkit.core.errors import HfkitError
from hfkit.data.built_in_templates import read_built_in
from hfkit.models.tokenizers import load_tokenizer

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


@pytest.fixture(scope="module")
def endless_dir(base_dir, tmp_path_factory) -> Path:
    """A model whose responses do not end for minutes: its end token is one that it never saw."""
    folder = tmp_path_factory.mktemp("endless") / "endless"
    shutil.copytree(base_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.eos_token = "<|user|>"
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def toolbox_dir(base_dir, tmp_path_factory) -> Path:
    """A model whose chat template has tools."""
    folder = tmp_path_factory.mktemp("toolbox") / "toolbox"
    shutil.copytree(base_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / "chat_template.jinja").write_text(read_built_in("qwen3"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return folder


@pytest.fixture(scope="module")
def server(ppo_dir, sft_dir, endless_dir, toolbox_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    words = [f"assistant={ppo_dir}", sft_dir, endless_dir, toolbox_dir, "--feedback", folder / "feedback.jsonl"]
    started = Server(folder / "log", *words)
    started.feedback = folder / "feedback.jsonl"
    yield started
    started.process.kill()


def chat_reply(model: Path, capsys, *words: str) -> str:
    """Return what `hfkit chat --prompt` prints at temperature 0."""
    capsys.readouterr()
    assert main(["chat", str(model), "--prompt", QUESTION, "--temperature", "0", *words]) == 0
    return capsys.readouterr().out.strip()


def test_a_streamed_chat_is_that_of_hfkit_chat(server, ppo_dir, capsys):
    with server.openai.chat.completions.create(
        model="assistant", messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = [*stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert printable("".join(pieces)) == chat_reply(ppo_dir, capsys) != ""
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")
    usage = chunks[-1].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens > 2
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_whole_response_is_the_streamed_one(server):
    chat = server.openai.chat.completions
    whole = chat.create(model="sft", messages=ASKED, temperature=0)
    with chat.create(model="sft", messages=ASKED, temperature=0, stream=True) as stream:
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert whole.choices[0].message.content == streamed
    assert whole.choices[0].finish_reason == "stop" and whole.choices[0].message.role == "assistant"
    length = chat.create(model="sft", messages=ASKED, temperature=0, max_tokens=2)
    assert (length.choices[0].finish_reason, length.usage.completion_tokens) == ("length", 2)
    same = chat.create(model="sft", messages=ASKED, temperature=0, max_completion_tokens=2)
    assert same.choices == length.choices


def test_models_are_listed_and_keep_their_own_weights(server, sft_dir, capsys):
    client = server.openai
    assert [model.id for model in client.models.list()] == ["assistant", "sft", "endless", "toolbox"]
    assert client.models.retrieve("sft").id == "sft"
    expected = chat_reply(sft_dir, capsys)
    for name in ("assistant", "sft", "assistant", "sft"):
        reply = client.chat.completions.create(model=name, messages=ASKED, temperature=0).choices[0].message.content
        if name == "sft":
            assert reply == expected
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="assistent", messages=ASKED)
    assert raised.value.code == "model_not_found" and "did you mean 'assistant'?" in str(raised.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_system_message_is_in_the_prompt(server, sft_dir, capsys):
    with_system = [{"role": "developer", "content": "Be brief."}, *ASKED]
    create = server.openai.chat.completions.create
    found = create(model="sft", messages=with_system, temperature=0)
    assert found.choices[0].message.content == chat_reply(sft_dir, capsys, "--system", "Be brief.")
    assert found.usage.prompt_tokens > create(model="sft", messages=ASKED, temperature=0).usage.prompt_tokens
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    assert create(model="sft", messages=parts, temperature=0).usage.prompt_tokens < found.usage.prompt_tokens


def test_a_stop_text_ends_the_response_and_is_not_in_it(server):
    create = server.openai.chat.completions.create
    whole = create(model="sft", messages=ASKED, temperature=0).choices[0].message.content
    stop = whole[3:7]
    for stream in (False, True):
        made = create(model="sft", messages=ASKED, temperature=0, stop=["never", stop], stream=stream)
        choices = [chunk.choices[0] for chunk in made] if stream else made.choices
        text = "".join(one.delta.content or "" if stream else one.message.content for one in choices)
        assert text == whole.partition(stop)[0].rstrip()
        assert choices[-1].finish_reason == "stop"


def test_a_seed_repeats_a_sampled_response(server):
    def sample(**options) -> str:
        made = server.openai.completions.create(model="endless", prompt="Ann", max_tokens=24, **options)
        assert (made.choices[0].finish_reason, made.usage.completion_tokens) == ("length", 24)
        return made.choices[0].text

    assert sample(temperature=2, seed=1) == sample(temperature=2, seed=1) != sample(temperature=2, seed=2)
    assert sample(temperature=2) != sample(temperature=2)  # without a seed, each response is another
    assert sample(temperature=2, top_p=1e-6) == sample(temperature=0)


def test_a_completion_continues_a_text_and_keeps_its_white_space(server, base_dir):
    tokenizer = load_tokenizer(str(base_dir))
    create = server.openai.completions.create
    text = create(model="endless", prompt=PROMPT, max_tokens=6, temperature=0)
    ids = create(model="endless", prompt=tokenizer(PROMPT).input_ids, max_tokens=6, temperature=0)
    assert text.choices[0].text == ids.choices[0].text and text.choices[0].text.startswith(" ")
    with create(model="endless", prompt=[PROMPT], max_tokens=6, temperature=0, stream=True) as stream:
        pieces = [chunk.choices[0].text for chunk in stream]
    assert "".join(pieces) == text.choices[0].text and len([piece for piece in pieces if piece]) > 1
    assert server.send("POST", "/v1/completions", {"model": "endless", "prompt": "\ud800"})[0] == 400


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"messages": []}, "messages", "expected a list of messages"),
        ({"messages": [{"role": "user"}]}, "messages", r"messages\[0\].content: missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "content that is not text"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "x"}]}, "messages", "assistant message at the end"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages", "rejected by the chat template"),
        ({"messages": [{"role": "user", "content": "x " * 400}]}, "messages", "context of sft is 256 tokens"),
        ({"temperature": -1}, "temperature", "temperature: -1 -> expected greater than or equal to 0"),
        ({"top_p": "1"}, "top_p", "expected a valid number"),
        ({"max_tokens": 0}, "max_tokens", "expected greater than or equal to 1"),
        ({"n": 2}, "n", "n: 2 is not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"stop": [""]}, "stop", "at least 1 character"),
        ({"stream": "yes"}, "stream", "expected a valid boolean"),
        ({"seed": 1.5}, "seed", "expected a valid integer"),
        ({"tools": TOOLS}, "tools", "the chat template of sft does not support tools"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice", "'required' is not supported"),
        ({"chat_template_kwargs": {"nothing": 1}}, "chat_template_kwargs", "no variable nothing"),
    ],
)
def test_what_is_wrong_with_a_request_is_reported(server, changes, param, message):
    status, body, _ = server.send("POST", "/v1/chat/completions", {"model": "sft", "messages": ASKED} | changes)
    error = body["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert re.search(message, error["message"])
    is_long = "256" in message
    assert (error["code"] == "context_length_exceeded") == is_long


def test_neutral_values_of_clients_are_accepted(server):
    answered = {"role": "assistant", "content": "Red.", "refusal": None, "audio": None, "tool_calls": None}
    extra = {"n": 1, "presence_penalty": 0, "logprobs": None, "user": "someone", "response_format": {"type": "text"}}
    body = {"model": "sft", "messages": [*ASKED, answered, *ASKED], "max_tokens": 2, **extra}
    assert server.send("POST", "/v1/chat/completions", body)[0] == 200


def test_tools_are_in_the_prompt_if_the_template_has_them(server):
    create = server.openai.chat.completions.create
    options = {"model": "toolbox", "messages": ASKED, "temperature": 0, "max_tokens": 4}
    plain, given = create(**options), create(**options, tools=TOOLS)
    assert given.usage.prompt_tokens > plain.usage.prompt_tokens and given.choices[0].finish_reason == "length"
    assert create(**options, tools=TOOLS, tool_choice="none").usage == plain.usage
    with create(**options, tools=TOOLS, stream=True) as stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == given.choices[0].message.content


def test_requests_that_are_not_answered(server):
    def status_and_code(*request, **headers):
        status, body, _ = server.send(*request, **headers)
        return status, body["error"]["code"]

    chat, listing = ("POST", "/v1/chat/completions"), ("GET", "/v1/models")
    assert status_and_code(*listing, Host="evil.example") == (403, "host_not_allowed")
    assert status_and_code(*listing, Host="evil.example:80@localhost") == (403, "host_not_allowed")
    assert status_and_code(*listing, Origin="http://evil.example") == (403, "origin_not_allowed")
    assert status_and_code(*chat, b"{}", Content_Type="text/plain") == (415, "unsupported_media_type")
    assert status_and_code(*chat, b"{") == (400, "invalid_json")
    assert status_and_code(*chat, b"[" * 100_000) == (400, "invalid_json")
    assert status_and_code(*chat, b"\xff") == (400, "invalid_json")
    assert status_and_code(*chat, rb'{"messages": "\ud800"}') == (400, "invalid_json")
    assert status_and_code(*chat, b"[1]") == (400, "invalid_json")
    assert server.send("GET", "/docs")[0] == server.send("GET", "/openapi.json")[0] == 404
    assert server.send("GET", "/v1/chat/completions")[0] == 405
    assert server.send(*listing, Host=f"localhost:{server.port}")[0] == 200
    status, body, headers = server.send("GET", "/health")
    assert (status, body) == (200, {"status": "ok"}) and "Access-Control-Allow-Origin" not in headers


def test_a_request_that_is_too_large_is_refused(server):
    try:
        status, body, _ = server.send("POST", "/v1/chat/completions", b"x" * (MOST_BYTES + 1))
    except (BrokenPipeError, ConnectionResetError):  # the server closed the connection while it was sent
        return
    assert status == 413 and "error" in body


def test_requests_wait_for_each_other(server):
    def ask(name: str) -> str:
        made = server.openai.chat.completions.create(model=name, messages=ASKED, temperature=0, max_tokens=24)
        return made.choices[0].message.content

    names = ["assistant", "sft"] * 3
    alone = {name: ask(name) for name in {*names}}
    with ThreadPoolExecutor(len(names)) as pool:
        assert [*pool.map(ask, names)] == [alone[name] for name in names]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_response(server, stream):
    body = {"model": "endless", "messages": ASKED, "max_tokens": 500_000, "stream": stream}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
        if stream:
            received = b""
            while received.count(b"data: ") < 4:
                received += connection.recv(4096)
        else:
            time.sleep(0.5)
    started = time.monotonic()
    server.openai.chat.completions.create(model="sft", messages=ASKED, max_tokens=2)
    assert time.monotonic() - started < 30  # 500,000 tokens take minutes


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_feedback_becomes_rows(server, run_stage, tmp_path, capsys):
    before = len(read_rows(server.feedback))
    made = server.openai.chat.completions.create(model="assistant", messages=ASKED, temperature=0)
    with server.openai.chat.completions.create(model="sft", messages=ASKED, temperature=0, stream=True) as stream:
        streamed = [chunk.id for chunk in stream].pop()
    up = {"id": made.id, "rating": "up", "note": "Ünïcode\n\u2028"}
    assert server.send("POST", "/v1/feedback", up)[:2] == (200, {"object": "feedback", "rows": 1})
    assert server.send("POST", "/v1/feedback", {"id": streamed, "rating": "down", "flags": ["wrong"]})[0] == 200
    assert server.send("POST", "/v1/feedback", {"id": made.id, "correction": "Ann likes blue."})[1]["rows"] == 2
    rows = read_rows(server.feedback)[before:]
    reply = made.choices[0].message.content
    assert [(row["prompt"], row["label"]) for row in rows] == [(ASKED, one) for one in (True, False, False, True)]
    assert [row["completion"] for row in rows][0::2] == [reply, reply] and rows[3]["completion"] == "Ann likes blue."
    assert [row["model"] for row in rows] == ["assistant", "sft", "assistant", "assistant"]
    assert rows[0]["note"] == up["note"] and rows[1]["flags"] == ["wrong"]
    for number in range(12):
        messages = [{"role": "user", "content": f"What is {number}?"}]
        body = {"messages": messages, "response": "No.", "correction": f"It is {number}."}
        assert server.send("POST", "/v1/feedback", body)[0] == 200
    data = [{"path": str(server.feedback)}]
    for stage in ("sft", "reward"):
        run_stage(stage, tmp_path / stage, datasets=data, test_split_size=2, max_steps=1, save_steps=1)
    printed = capsys.readouterr().out
    assert re.search(r"kto format.*rows whose label is true", printed)
    record = json.loads((tmp_path / "reward" / "hfkit.json").read_text())
    assert record["status"] == "done"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"id": "chatcmpl-0", "rating": "up"}, 404, "is not among the last responses"),
        ({"id": ["x"], "rating": "up"}, 400, "id: ['x'] -> expected a valid string"),
        ({"rating": "up"}, 400, "expected the id of a response, or messages and response"),
        ({"messages": ASKED, "response": "x"}, 400, "rating: expected 'up' or 'down', or a correction"),
        ({"messages": ASKED, "response": "x", "rating": "good"}, 400, "rating: 'good' -> expected"),
        ({"messages": ASKED, "response": "x", "rating": "up", "correction": "y"}, 400, "needs none"),
        (
            {"messages": ASKED, "response": "x", "rating": "up", "flags": "wrong"},
            400,
            "flags: 'wrong' -> expected",
        ),
        ({"messages": ASKED, "response": "x", "rating": "up", "note": 1}, 400, "note: 1 -> expected a valid string"),
        ({"messages": "x", "response": "x", "rating": "up"}, 400, "messages: expected a list"),
    ],
)
def test_feedback_that_is_wrong_is_not_written(server, body, status, message):
    before = server.feedback.read_bytes()
    found, answer, _ = server.send("POST", "/v1/feedback", body)
    assert found == status and message in answer["error"]["message"]
    assert server.feedback.read_bytes() == before


def test_the_oldest_responses_are_forgotten_and_a_cut_line_is_dropped(tmp_path, monkeypatch):
    from hfkit.commands.serve import feedback
    from hfkit.commands.serve.errors import ApiError

    monkeypatch.setattr(feedback, "MOST_KEPT", 2)
    path = tmp_path / "feedback.jsonl"
    path.write_text('{"a": 1}\n{"b": ')
    file = FeedbackFile(path)
    for number in range(3):
        file.keep(str(number), feedback.Answered("m", ASKED, None, f"reply {number}"))
    with pytest.raises(ApiError, match="not among the last"):
        file.add({"id": "0", "rating": "up"})
    assert file.add({"id": "2", "rating": "up"}) == 1
    assert [row.get("completion") for row in read_rows(path)] == [None, "reply 2"]
    assert stat.S_IMODE((FeedbackFile(tmp_path / "new.jsonl").path).stat().st_mode) == 0o600


def test_adapters_of_one_base_share_it(sft_dir, ppo_dir):
    backend = TransformersBackend({"a": str(sft_dir), "b": str(ppo_dir)}, LoadedModels())
    assert backend.chat_models["a"].base is backend.chat_models["b"].base


class NoModels:
    """A backend without models."""

    name, most_at_once, models = "none", 1, {}


@pytest.fixture
def guarded():
    """guarded(key, origins) -> the port of an app without models, in a thread."""
    with ExitStack() as servers:

        def start(key: str | None, origins: list[str]) -> int:
            listener = open_socket("127.0.0.1", 0)
            servers.enter_context(ServerThread(build_app(Jobs(NoModels(), 1), key, origins, None, None), listener))
            LOCAL_PORTS.add(port := listener.getsockname()[1])
            return port

        yield start


def test_if_there_is_a_key_every_request_needs_it(guarded):
    port = guarded(KEY, [])
    for given in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer "}):
        status, body, headers = send(port, "GET", "/v1/models", **given)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key") and KEY not in json.dumps(body)
        assert headers["www-authenticate"] == "Bearer"
        assert send(port, "POST", "/v1/feedback", {}, **given)[0] == 401
    assert send(port, "GET", "/v1/models", Authorization=f"Bearer {KEY}")[0] == 200
    assert send(port, "GET", "/v1/models", Authorization=f"Bearer {KEY}", Host="my-server.example")[0] == 200
    assert send(port, "GET", "/health")[0] == 200
    assert send(port, "POST", "/v1/feedback", {}, Authorization=f"Bearer {KEY}")[0] == 404  # without --feedback


def test_only_allowed_pages_may_use_the_server(guarded):
    page, port = "https://page.example", guarded(None, ["https://page.example"])
    assert send(port, "GET", "/v1/models", Origin=page)[2]["access-control-allow-origin"] == page
    assert send(port, "GET", "/v1/models", Origin="https://other.example")[0] == 403
    asks = {"Origin": page, "Access_Control_Request_Method": "POST"}
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("OPTIONS", "/v1/chat/completions", headers={k.replace("_", "-"): v for k, v in asks.items()})
        assert connection.getresponse().status == 200


def test_a_full_queue_refuses_requests():
    from hfkit.commands.serve.errors import ApiError

    jobs = Jobs(NoModels(), 1)
    job = Job(None, Request("", []), lambda event: None)
    for _ in range(MOST_WAITING):
        jobs.put(job)
    with pytest.raises(ApiError, match="requests are waiting") as raised:
        jobs.put(job)
    assert raised.value.status == 503
    jobs.close()
    with pytest.raises(ApiError, match="shutting down"):
        jobs.put(job)


def test_a_request_whose_client_left_while_it_waited_ends():
    """Otherwise its handler waits forever, and 500 of them make the server busy for everyone."""
    events = []
    job = Job(None, Request("", []), events.append)
    job.cancelled.set()
    Jobs(NoModels(), 1).start(job, None)
    assert [event.status for event in events] == [499]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{reward}"], "is a classifier, such as a reward model, and cannot generate"),
        (["/nowhere"], "no such folder"),
        (["{sft}", "{sft}"], "has this name too: name one of them with NAME="),
        (["{sft}", "--host", "0.0.0.0"], "other machines can connect: set a key"),
        (["{sft}", "--port", "{port}"], "choose another"),
        (["{sft}", "--host", "192.0.2.1", "--api_key_file", "{key}"], "choose another"),
        (["{sft}", "--api_key_file", "{open}"], "other users can read it: chmod 600"),
        (["{sft}", "--api_key_file", "{short}"], "expected 16 to 512 visible ASCII characters"),
        (["{sft}", "--api_key_file", "/nowhere"], "cannot be read"),
        (["{sft}", "--feedback", "/nowhere/feedback.jsonl"], "--feedback"),
        (["{sft}", "--feedback", "{short}"], "expected the name of a JSONL file"),
        (["{sft}", "--backend", "vllm"], "vllm"),
        (["{sft}", "--chat_template_kwargs", "x"], "expected a mapping as JSON"),
    ],
)
def test_what_cannot_be_served_is_reported_before_anything_is_loaded(
    words, message, sft_dir, reward_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # no vllm is installed next to it
    monkeypatch.delenv("HFKIT_API_KEY", raising=False)
    monkeypatch.setattr(LoadedModels, "add", lambda *_: pytest.fail("a model was loaded"))
    for name, content, mode in (("key", KEY, 0o600), ("open", KEY, 0o644), ("short", "abc", 0o600)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"reward": reward_dir, "sft": sft_dir, "port": taken.getsockname()[1]}
        names |= {name: tmp_path / name for name in ("key", "open", "short")}
        assert main(["serve", *(word.format(**names) for word in words)]) in (1, 2)
    printed = capsys.readouterr()
    assert message in printed.err and KEY not in printed.err + printed.out and "Traceback" not in printed.err


def test_models_get_names(sft_dir, ppo_dir, monkeypatch):
    assert name_models([str(sft_dir), f"my-ppo={ppo_dir}", "someone/tiny", "base=someone/base"]) == {
        **{"sft": str(sft_dir), "my-ppo": str(ppo_dir)},
        **{"someone/tiny": "someone/tiny", "base": "someone/base"},
    }
    monkeypatch.chdir(sft_dir)
    assert name_models(["."]) == {"sft": "."}


@pytest.mark.parametrize(
    ("pieces", "stop_texts", "expected"),
    [
        (["  Hi", " there", " \n"], (), "Hi there"),
        (["Hi the", "re, you"], ("there",), "Hi"),
        (["a<", "b<", "/s>c"], ("</s>",), "a<b"),
        (["a<", "/"], ("</s>",), "a</"),
        (["aab", "aac"], ("aaac", "aac"), "aab"),
        (["xEND", "yEND"], ("END",), "x"),
        (["\n\nHi"], ("\n\n",), ""),
    ],
)
def test_the_text_of_a_response_ends_at_a_stop_text(pieces, stop_texts, expected):
    written = []
    text = ResponseText(stop_texts, True, written.append)
    for piece in pieces:
        text.add(piece)
    text.end()
    assert "".join(written) == text.text == expected


def test_requests_are_read():
    chat = read_chat({"messages": ASKED, "max_completion_tokens": 3, "max_tokens": 9, "stop": "x"}, "Be kind.")
    assert (chat.max_tokens, chat.stop_texts, chat.temperature, chat.prompt[0]["content"]) == (
        3,
        ("x",),
        1.0,
        "Be kind.",
    )
    assert read_chat({"messages": ASKED, "temperature": 1e-30}).temperature == 0  # logits would overflow
    own = [{"role": "system", "content": "Be rude."}, *ASKED]
    assert read_chat({"messages": own}, "Be kind.").prompt == own
    assert read_completion({"prompt": [[1, 2]]}).prompt == [1, 2]


CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'


@pytest.mark.parametrize(
    ("text", "content", "count"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", "", 1),
        (f"One moment.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>", "One moment.", 2),
        ("No call.", "No call.", 0),
        ('<tool_call>\n{"name": "weather", "arg', '<tool_call>\n{"name": "weather", "arg', 0),
        ('<tool_call>\n{"name": "rm", "arguments": {}}', '<tool_call>\n{"name": "rm", "arguments": {}}', 0),
        (f"<tool_call>{CALL.replace('{', '[', 1)}", f"<tool_call>{CALL.replace('{', '[', 1)}", 0),
    ],
)
def test_tool_calls_are_found_in_a_response(with_template, text, content, count):
    tokenizer = with_template(read_built_in("qwen3"))
    found, calls = find_calls(text, call_format(tokenizer, "qwen3"), {"weather"})
    assert (found, len(calls)) == (content, count)
    for call in calls:
        assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'} and call["type"] == "function"


class Caller:
    """A backend whose model answers with a text and a tool call."""

    name, most_at_once = "caller", 1

    def generate(self, work):
        raw = f"One moment.\n<tool_call>\n{CALL}\n</tool_call>"
        for piece in (raw[:20], raw[20:]):
            work.write(piece)
        return Generated(9, True, raw)


def test_a_response_with_a_tool_call_ends_with_it(with_template):
    model, events = ServedModel("m", with_template(read_built_in("qwen3")), 2048, [0]), []
    for tools in (TOOLS, None):
        Jobs(Caller(), 10).start(Job(model, Request("m", ASKED, tools), events.append), None)
    started, text, finished, *others = events
    assert (type(started), text, finished.text) == (Started, "One moment.", "One moment.")
    assert finished.reason == "tool_calls" and finished.tool_calls[0]["function"]["name"] == "weather"
    assert others[-1].reason == "stop" and CALL in others[-1].text and not others[-1].tool_calls


MISTRAL = """
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ tools | tojson if tools else '' }}[INST]{{ message.content }}
{%- elif message.tool_calls -%}[TOOL_CALLS][
{%- for call in message.tool_calls -%}
{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
{%- endfor -%}]{{ eos_token }}
{%- else -%}{{ message.content + eos_token }}
{%- endif -%}
{%- endfor -%}"""
BARE = """
{%- for message in messages -%}
<|{{ message.role }}|>
{%- for call in message.tool_calls -%}
{{ {'name': call.function.name, 'parameters': call.function.arguments} | tojson }}
{%- endfor -%}
{{ message.content + eos_token }}
{%- endfor -%}
{{ '<|assistant|>' if add_generation_prompt else '' }}"""


@pytest.mark.parametrize(
    ("template", "text"),
    [(MISTRAL, f"[TOOL_CALLS][{CALL}, {CALL}]"), (BARE, CALL.replace("arguments", "parameters"))],
)
def test_tool_calls_in_other_forms_are_found(with_template, template, text):
    tokenizer = with_template(template)
    content, calls = find_calls(text, call_format(tokenizer, template), {"weather"})
    assert content == "" and [call["function"]["name"] for call in calls] == ["weather"] * text.count('"name"')
    assert find_calls("Hello {you}.", call_format(tokenizer, template), {"weather"}) == ("Hello {you}.", [])


def test_a_template_without_tools_has_no_form_of_calls(tokenizer):
    assert call_format(tokenizer, "own") is None


VLLM = """#!{python} -S
import http.server, json, socketserver, sys
words = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("{seen}", "a") as file:
            file.write(json.dumps([words, body]) + "\\n")
        self.send_response(200)
        self.end_headers()
        for token in json.load(open("{tokens}")):
            piece = {{"choices": [{{"text": "", "token_ids": [token], "finish_reason": None}}]}}
            self.wfile.write(b"data: " + json.dumps(piece).encode() + b"\\n\\n")
        self.wfile.write(b"data: [DONE]\\n\\n")
    def log_message(self, *_):
        pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    def get_request(self):
        return super().get_request()[0], ("local", 0)
Server(words[words.index("--uds") + 1], Handler).serve_forever()
"""


@pytest.fixture
def vllm_program(tmp_path, monkeypatch):
    """A program `vllm` that answers with the tokens of a file, and writes its arguments and requests to another."""
    program = tmp_path / "vllm"
    program.write_text(VLLM.format(python=sys.executable, seen=tmp_path / "seen", tokens=tmp_path / "tokens"))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_vllm() == str(program)
    return tmp_path


def test_vllm_gets_token_ids_and_the_settings_of_training(vllm_program, ppo_dir, sft_dir):
    paths = {"ppo": str(ppo_dir), "sft": str(sft_dir)}
    assert chosen_backend("vllm", paths) == "vllm"
    backend, pieces = VLLMBackend(paths, LoadedModels()), []
    model = backend.models["ppo"]
    try:
        reply = [*model.tokenizer(" Ann likes red.").input_ids, model.tokenizer.eos_token_id]
        (vllm_program / "tokens").write_text(json.dumps(reply))
        request = Request("ppo", ASKED, seed=3, temperature=0.5)
        made = backend.generate(Generation(model, [5, 6], request, 9, pieces.append, lambda: False))
    finally:
        backend.close()
    assert "".join(pieces) == " Ann likes red." and (made.tokens, made.is_ended) == (len(reply), True)
    [(words, body)] = read_rows(vllm_program / "seen")
    assert (body["model"], body["prompt"], body["max_tokens"], body["seed"]) == ("ppo", [5, 6], 9, 3)
    assert body["stop_token_ids"] == model.stop_token_ids and body["top_k"] == 0
    at = words.index("--lora-modules")
    assert words[at + 1 : at + 3] == [f"ppo={ppo_dir}", f"sft={sft_dir}"]
    assert words[words.index("--max-model-len") + 1] == "256" and "--trust-remote-code" not in words
    assert backend.process.returncode is not None and not Path(backend.socket).exists()
    with pytest.raises(HfkitError, match="vLLM ended with status"):
        backend.require_alive()


def test_vllm_serves_one_base(vllm_program, toolbox_dir, endless_dir):
    paths = {"toolbox": str(toolbox_dir), "endless": str(endless_dir)}
    with pytest.raises(HfkitError, match="vLLM serves one base"):
        chosen_backend("vllm", paths)
    assert chosen_backend(None, paths) == "transformers"  # without a GPU


def test_sigterm_ends_the_server_within_seconds_and_frees_the_port(server):
    with server.openai.chat.completions.create(
        model="endless", messages=ASKED, max_tokens=500_000, stream=True
    ) as stream:
        next(iter(stream))
        started = time.monotonic()
        os.kill(server.process.pid, 15)
        with pytest.raises(Exception, match=r"shutting down|peer closed|incomplete"):
            for _ in stream:
                pass
    assert server.process.wait(20) == 143
    assert time.monotonic() - started < 15
    with open_socket("127.0.0.1", server.port) as again:
        again.listen()
    printed = server.log.read_text()
    assert "interrupted by SIGTERM" in printed and "Traceback" not in printed and QUESTION not in printed
