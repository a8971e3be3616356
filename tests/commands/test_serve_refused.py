"""What `hfkit serve` refuses: requests without the key or from elsewhere, a full queue, models that cannot answer."""

import http.client
import json
import socket
import sys
from contextlib import ExitStack, closing

import pytest
from network import LOCAL_PORTS
from serve_process import KEY, send

from hfkit.cli import main
from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.serve.app import build_app
from hfkit.commands.serve.jobs import MOST_WAITING, Job, Jobs
from hfkit.commands.serve.names import name_models
from hfkit.commands.serve.requests import Request
from hfkit.commands.web.server import ServerThread, open_socket


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
    job = Job(None, Request(prompt=[]), lambda event: None)
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
    job = Job(None, Request(prompt=[]), events.append)
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
