"""A double of `vllm serve` in a process of its own: the requests of TRL's client, answered with a small model.

What breaks it, and when, is a JSON list in its environment: [how, number of weight updates before].
"""

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
"""What a request leaves out: as if the model's generation config said so."""


class RunningServer:
    """A server that was started, and its URL.

    Args:
        breaks: how it breaks ("dies", "error", "garbage", "huge", "slow", "tokens", "hangs"), and after how many weight
            updates.
    """

    def __init__(self, model: Path, folder: Path, breaks: tuple[str, int] | None = None, port: int = 0, **environment):
        self.log, ready = folder / "requests.jsonl", folder / "port"
        ready.unlink(missing_ok=True)
        path = os.pathsep.join([str(DOUBLE), str(DOUBLE.parent)])
        env = {**os.environ, "PYTHONPATH": path, "BREAKS": json.dumps(breaks), **environment}
        self.process = forks.Fork(CODE, model, port, self.log, ready, env=env)
        latest = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < latest
            time.sleep(forks.PAUSE)
        self.port = int(ready.read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def requests(self, path: str) -> list[dict]:
        """The bodies of the requests to a path so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [body for asked, body in map(json.loads, lines) if asked == path]

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()


def serve() -> None:
    """Serve a model until killed: arguments are its folder, a port, and the files for requests and for the port."""
    import torch
    import vllm
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
    from vllm.sampling import Sampler
    from vllm.sampling_params import SamplingParams

    torch.set_num_threads(1)
    model, port, log, ready = sys.argv[1:]
    how, after = json.loads(os.environ["BREAKS"]) or (None, 0)
    dtype = os.environ.get("DTYPE", "float32")
    sampler, lock = Sampler(model, getattr(torch, dtype)), threading.Lock()
    state = {"communicator": None, "updating": False, "updates": 0}
    known = {field.name for field in fields(SamplingParams)}

    def complete(body: dict) -> dict:
        (prompt,) = body["prompt"]
        given = {name: value for name, value in {**DEFAULTS, **body}.items() if name in known}
        reply = sampler.reply(prompt, SamplingParams(**given))
        if is_broken("tokens"):
            reply[-1] = 10**6
        if is_broken("prompt"):
            prompt = prompt[1:]
        choice = {"index": 0, "text": "", "logprobs": None, "prompt_token_ids": prompt, "token_ids": reply}
        return {"model": body["model"], "choices": [choice]}

    def start(body: dict) -> None:
        if state["updating"]:
            raise RuntimeError("a weight update is already active")
        state["updating"] = True

    def update(body: dict) -> dict:
        if not state["updating"] or state["communicator"] is None:
            raise RuntimeError("no weight update was started")
        sampler.load_weights(NCCLWeightTransferEngine.receive(state["communicator"], body["update_info"]))
        state["updates"] += 1
        return {}

    def is_broken(kind: str) -> bool:
        return how == kind and state["updates"] >= after

    def card() -> dict:
        names = {"id": os.environ.get("SERVED", model), "root": os.environ.get("SERVED", model)}
        return {"data": [{**names, "max_model_len": int(os.environ.get("CONTEXT", 256))}]}

    def info() -> dict:
        transfer = {"backend": "nccl"} if os.environ.get("TRANSFER", "1") == "1" else None
        return {"vllm_config": {"weight_transfer_config": transfer, "model_config": {"dtype": f"torch.{dtype}"}}}

    answers = {
        "/server_info": lambda body: info(),
        "/health": lambda body: {},
        "/version": lambda body: {"version": os.environ.get("VERSION", vllm.__version__)},
        "/v1/models": lambda body: card(),
        "/get_world_size": lambda body: {"world_size": 1},
        "/init_weight_transfer_engine": lambda body: state.update(
            communicator=NCCLWeightTransferEngine.server_init(body["init_info"])
        ),
        "/start_weight_update": start,
        "/update_weights": update,
        "/finish_weight_update": lambda body: state.update(updating=False),
        "/reset_prefix_cache": lambda body: sampler.prefixes.clear(),
        "/v1/completions": complete,
    }
    if os.environ.get("DEV_MODE") == "0":
        del answers["/server_info"], answers["/get_world_size"]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def respond(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(asked) if asked else {}
            with lock:
                with open(log, "a") as file:
                    file.write(json.dumps([self.path, body]) + "\n")
                status, content = self.answer(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond

        def answer(self, body: dict) -> tuple[int, bytes]:
            if self.path == "/v1/completions":
                if is_broken("dies"):
                    os._exit(1)
                if is_broken("slow"):
                    time.sleep(1000)
                if is_broken("garbage"):
                    return 200, b"<html>it works</html>"
                if is_broken("huge"):
                    return 200, b'"' + b" " * (17 << 20) + b'"'
                if is_broken("error"):
                    return 500, b'{"error": {"message": "the engine is dead"}}'
            if self.path == "/update_weights" and is_broken("hangs"):
                time.sleep(1000)
            path = self.path.partition("?")[0]
            if path not in answers:
                return 404, b'{"detail": "Not Found"}'
            try:
                return 200, json.dumps(answers[path](body) or {}).encode()
            except Exception as error:
                return 500, json.dumps({"error": {"message": repr(error)}}).encode()

        def log_message(self, *args) -> None:
            pass

    ThreadingHTTPServer.request_queue_size = 128  # connections that wait
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.daemon_threads = True
    temporary = Path(f"{ready}.new")
    temporary.write_text(str(server.server_address[1]))
    temporary.rename(ready)
    server.serve_forever()
