"""Starts the server: validates everything first, then loads the models, then answers requests."""

import socket
from argparse import Namespace
from pathlib import Path

from hfkit.commands.chat.main import parse_template_kwargs
from hfkit.commands.chat.models import LoadedModels, require_language_model
from hfkit.commands.serve.app import build_app
from hfkit.commands.serve.backends import TransformersBackend
from hfkit.commands.serve.feedback import FeedbackFile
from hfkit.commands.serve.guard import KEY_VARIABLE, read_api_key
from hfkit.commands.serve.jobs import Jobs
from hfkit.commands.serve.names import name_models
from hfkit.commands.serve.vllm import VLLMBackend, chosen_backend
from hfkit.commands.web.hosts import is_this_machine
from hfkit.commands.web.server import ServerThread, address_of, open_socket
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.explain_errors import explain_out_of_memory
from hfkit.models.precision import dtype_to_evaluate


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
    for path in paths.values():
        require_language_model(path)
    kind = chosen_backend(given.backend, paths)
    with open_socket(given.host, given.port) as listener:
        feedback = FeedbackFile(Path(given.feedback)) if given.feedback else None
        loaded = LoadedModels(dtype_to_evaluate(given.dtype), given.chat_template, variables)
        with explain_out_of_memory(loaded):
            backend = VLLMBackend(paths, loaded) if kind == "vllm" else TransformersBackend(paths, loaded)
        try:
            jobs = Jobs(backend, given.length)
            app = build_app(jobs, key, given.allow_origin or [], feedback, given.system)
            answer_requests(app, listener, jobs)
        finally:
            backend.close()


def answer_requests(app, listener: socket.socket, jobs: Jobs) -> None:
    """Run the HTTP server in a thread, and work on its jobs here.

    Raises:
        HfkitError: the HTTP server or the backend ended.
        KeyboardInterrupt, Interrupted: because of a signal.
    """
    with ServerThread(app, listener) as server:
        try:
            names = ", ".join(jobs.backend.models)
            say(f"serve: {address_of(listener)}/v1 has {names} ({jobs.backend.name}); Ctrl-C ends it")
            jobs.work(lambda: server.wait(0))
            raise HfkitError("the HTTP server ended")
        finally:
            jobs.close()
