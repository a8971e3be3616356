"""Starts the server: validates everything first, then loads the models, then answers requests."""

import socket
import threading
import time
from argparse import Namespace
from pathlib import Path

import uvicorn

from hfkit.commands.chat.main import parse_template_kwargs
from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.serve.app import build_app
from hfkit.commands.serve.engines import ServingBackend, TransformersBackend
from hfkit.commands.serve.feedback import FeedbackFile
from hfkit.commands.serve.guard import KEY_VARIABLE, is_this_machine, read_api_key
from hfkit.commands.serve.jobs import Jobs
from hfkit.commands.serve.models import name_models, require_language_models
from hfkit.commands.serve.vllm import VLLMBackend, chosen_backend
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, HfkitError, Problem, reason
from hfkit.core.explain_errors import explain_out_of_memory
from hfkit.models.precision import dtype_to_evaluate

SECONDS_TO_CLOSE = 3.0
"""Seconds within which open connections get their last bytes when the server ends."""


def serve(given: Namespace) -> None:
    """Serve models until a signal arrives.

    Raises:
        HfkitError: a model, the port, the key or a file cannot be used; before anything is loaded.
        KeyboardInterrupt, Interrupted: because of the signal.
    """
    paths, key = name_models(given.models), read_api_key(given.api_key_file)
    if key is None and not is_this_machine(given.host):
        remedy = f"other machines can connect: set a key with --api_key_file FILE or {KEY_VARIABLE}"
        raise ConfigError([Problem("--host", given.host, remedy)], "the command line")
    variables = parse_template_kwargs(given.chat_template_kwargs)
    require_language_models(paths)
    backend = chosen_backend(given.backend, paths)
    with bind(given.host, given.port) as listener:
        feedback = FeedbackFile(Path(given.feedback)) if given.feedback else None
        loaded = LoadedModels(dtype_to_evaluate(given.dtype), given.chat_template, variables)
        with explain_out_of_memory(loaded):
            engine = VLLMBackend(paths, loaded) if backend == "vllm" else TransformersBackend(paths, loaded)
        try:
            jobs = Jobs(engine, given.length)
            app = build_app(jobs, key, given.allow_origin or [], feedback, given.system)
            answer_requests(app, listener, jobs, engine)
        finally:
            engine.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has a port and does not listen yet.

    Raises:
        ConfigError: the port is in use, or the host is not this machine's.
    """
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            [Problem("--port", f"{host}:{port}", f"{reason(error)}: choose another")], "the command line"
        ) from error
    return listener


def answer_requests(app, listener: socket.socket, jobs: Jobs, engine: ServingBackend) -> None:
    """Run the HTTP server in a thread, and work on its jobs here.

    Raises:
        HfkitError: the HTTP server or the engine ended.
        KeyboardInterrupt, Interrupted: because of a signal.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            log_level="error",
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=int(SECONDS_TO_CLOSE) - 1,
        )
    )
    thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        say(f"serve: http://{host}:{port}/v1 has {', '.join(engine.models)} ({engine.name}); Ctrl-C ends it")
        jobs.work(thread.is_alive)
        raise HfkitError("the HTTP server ended")
    finally:
        jobs.close()
        server.should_exit = True
        thread.join(SECONDS_TO_CLOSE)
