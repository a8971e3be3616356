"""`hfkit serve`: a real server on 127.0.0.1, and the clients that talk to it."""

import json
import os
import re
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from serve_process import ASKED, LIMIT, PROMPT, QUESTION, TOOLS, Server, chat_reply, read_rows

from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.serve.app import MOST_BYTES
from hfkit.commands.serve.backends import TransformersBackend
from hfkit.commands.serve.feedback import FeedbackFile
from hfkit.commands.web.server import open_socket
from hfkit.core.console import printable
from hfkit.models.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def server(ppo_dir, sft_dir, endless_dir, toolbox_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    words = [f"assistant={ppo_dir}", sft_dir, endless_dir, toolbox_dir, "--feedback", folder / "feedback.jsonl"]
    started = Server(folder / "log", *words)
    started.feedback = folder / "feedback.jsonl"
    yield started
    started.process.kill()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_seed_repeats_a_sampled_response(server):
    def sample(**options) -> str:
        made = server.openai.completions.create(model="endless", prompt="Ann", max_tokens=24, **options)
        if options["temperature"] == 0:  # another response may contain the end token by chance
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
        (
            {"messages": [*ASKED, {"role": "assistant", "content": "x"}]},
            "messages",
            "end with one of the user",
        ),
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


@pytest.mark.slow
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
    server.openai.chat.completions.create(model="sft", messages=ASKED, max_tokens=2)  # else this times out


@pytest.mark.slow
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


def test_sigterm_ends_the_server_during_a_response_and_frees_the_port(server):
    with server.openai.chat.completions.create(
        model="endless", messages=ASKED, max_tokens=500_000, stream=True
    ) as stream:
        next(iter(stream))
        os.kill(server.process.pid, 15)
        with pytest.raises(Exception, match=r"shutting down|peer closed|incomplete"):
            for _ in stream:
                pass
    assert server.process.wait() == 143
    with open_socket("127.0.0.1", server.port) as again:
        again.listen()
    printed = server.log.read_text()
    assert "interrupted by SIGTERM" in printed and "Traceback" not in printed and QUESTION not in printed
