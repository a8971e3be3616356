"""A double of `vllm serve` in a separate process: it answers the requests of TRL's client with a small model."""

import json
import os
import sys
import threading
import time
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import forks

DOUBLE = Path(__file__).parent / "vllm_double"
CODE = "from vllm_server import serve; serve()"
DEFAULTS = {"temperature": 1.0, "top_p": 0.5, "top_k": 3, "min_p": 0.2, "repetition_penalty": 3.0}
"""Defaults for settings that a request leaves out, as from the model's generation config."""
SETTINGS = {"how": None, "after": 0, "name": None, "version": None, "context": 256, "dtype": "float32"}
SETTINGS |= {"dev_mode": True, "transfer": True}


class RunningServer:
    """A running server, and its URL.

    Settings:
        how: how it fails: dies, slow, error, redirect, garbage, huge, tokens, prompt, hangs or busy.
        after: the number of weight updates after which it fails.
        name, version, context, dtype: properties of the model and of vLLM in its answers; the default dtype is the
            model's.
        dev_mode, transfer: whether its weights can be replaced.
    """

    def __init__(self, model: Path, folder: Path, port: int = 0, **settings):
        self.log, self.settings, ready = (folder / name for name in ("requests.jsonl", "settings.json", "port"))
        ready.unlink(missing_ok=True)
        self.change(**settings)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(DOUBLE), str(DOUBLE.parent)])}
        self.process = forks.Fork(CODE, model, port, folder, env=env)
        latest = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < latest
            time.sleep(forks.PAUSE)
        self.port = int(ready.read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def change(self, **settings) -> None:
        """Set these settings, and all others to their defaults."""
        assert settings.keys() <= SETTINGS.keys()
        write_whole(self.settings, json.dumps({**SETTINGS, **settings}))

    def requests(self, path: str) -> list[dict]:
        """Return the bodies of the requests to a path so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [body for asked, body in map(json.loads, lines) if asked == path]

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()


def write_whole(path: Path, text: str) -> None:
    """Write a file that another process waits for or reads."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.rename(path)


class Service:
    """The answers of the server, one method per path."""

    def __init__(self, model: str, folder: Path):
        import torch
        import vllm
        from vllm.distributed.weight_transfer import nccl_common
        from vllm.sampling import Sampler
        from vllm.sampling_params import SamplingParams

        torch.set_num_threads(1)
        self.model, self.folder, self.version = model, folder, vllm.__version__
        self.transfer, self.params = nccl_common, SamplingParams
        self.sampler = Sampler(model, getattr(torch, self.settings["dtype"]))
        self.communicator, self.is_updating, self.updates = None, False, 0
        self.answers = {
            "/health": lambda body: {},
            "/version": lambda body: {"version": self.settings["version"] or self.version},
            "/v1/models": self.models,
            "/server_info": self.server_info,
            "/get_world_size": lambda body: {"world_size": 1},
            "/init_weight_transfer_engine": self.join,
            "/start_weight_update": self.start,
            "/update_weights": self.update,
            "/finish_weight_update": self.finish,
            "/reset_prefix_cache": self.reset,
            "/v1/completions": self.complete,
        }

    @property
    def settings(self) -> dict:
        return json.loads((self.folder / "settings.json").read_text())

    def is_broken(self, how: str) -> bool:
        """Return whether the server fails in this way now."""
        return self.settings["how"] == how and self.updates >= self.settings["after"]

    def models(self, body: dict) -> dict:
        name = self.settings["name"] or self.model
        return {"data": [{"id": name, "root": name, "max_model_len": self.settings["context"]}]}

    def server_info(self, body: dict) -> dict:
        transfer = {"backend": "nccl"} if self.settings["transfer"] else None
        dtype = f"torch.{self.settings['dtype']}"
        return {"vllm_config": {"weight_transfer_config": transfer, "model_config": {"dtype": dtype}}}

    def join(self, body: dict) -> None:
        self.require_packed(body["init_info"], "0.28" <= self.version)
        self.communicator = self.transfer.server_init(body["init_info"])

    def require_packed(self, info: dict, is_here: bool) -> None:
        """Raise an error if packed weights are not announced where this version of vLLM expects it."""
        if info.get("packed", False) is not is_here:
            raise RuntimeError(f"packed: {info.get('packed')} in {[*info]}")

    def start(self, body: dict) -> None:
        if self.is_updating:
            raise RuntimeError("a weight update is already active")
        self.is_updating = True

    def update(self, body: dict) -> None:
        if not self.is_updating or self.communicator is None:
            raise RuntimeError("no weight update was started")
        self.require_packed(body["update_info"], self.version < "0.28")
        if self.is_broken("hangs"):
            time.sleep(1000)
        self.sampler.load_weights(self.transfer.receive(self.communicator, body["update_info"]))
        self.updates += 1

    def finish(self, body: dict) -> None:
        self.is_updating = False

    def reset(self, body: dict) -> dict:
        if self.is_broken("busy"):
            return {"success": False}
        self.sampler.prefixes.clear()
        return {"success": True}

    def complete(self, body: dict) -> dict:
        if self.is_broken("dies"):
            os._exit(1)
        if self.is_broken("slow"):
            time.sleep(1000)
        if self.is_broken("error"):
            raise RuntimeError("the engine is dead")
        (prompt,) = body["prompt"]
        known = {field.name for field in fields(self.params)}
        given = {name: value for name, value in {**DEFAULTS, **body}.items() if name in known}
        reply = self.sampler.reply(prompt, self.params(**given))
        if self.is_broken("tokens"):
            reply[-1] = 10**6
        if self.is_broken("prompt"):
            prompt = prompt[1:]
        text = " " * (17 << 20) if self.is_broken("huge") else ""
        choice = {"index": 0, "text": text, "logprobs": None, "prompt_token_ids": prompt, "token_ids": reply}
        return {"model": body["model"], "choices": [choice]}

    def answer(self, path: str, body: dict) -> tuple[int, bytes]:
        """Return the status and the content of the answer."""
        path = path.partition("?")[0]
        is_hidden = path in ("/server_info", "/get_world_size") and not self.settings["dev_mode"]
        if is_hidden or path not in self.answers:
            return 404, b'{"detail": "Not Found"}'
        if path == "/v1/completions" and self.is_broken("garbage"):
            return 200, b"<html>it works</html>"
        try:
            return 200, json.dumps(self.answers[path](body) or {}).encode()
        except Exception as error:
            return 500, json.dumps({"error": {"message": repr(error)}}).encode()


def serve() -> None:
    """Serve a model until killed: arguments are its folder, a port, and the folder with the settings."""
    model, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    service, lock = Service(model, folder), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def respond(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(asked) if asked else {}
            with lock:
                with open(folder / "requests.jsonl", "a") as log:
                    log.write(json.dumps([self.path, body]) + "\n")
                status, content = service.answer(self.path, body)
            is_elsewhere = self.path == "/v1/completions" and service.is_broken("redirect")
            self.send_response(307 if is_elsewhere else status)
            if is_elsewhere:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond

        def log_message(self, *args) -> None:
            pass

    ThreadingHTTPServer.request_queue_size = 128  # maximum number of waiting connections
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    write_whole(folder / "port", str(server.server_address[1]))
    server.serve_forever()
