"""Generates responses with vLLM: `vllm serve` in a separate process, behind this server, on a Unix socket.

This server encodes the prompts and decodes the responses, so the clients get the same as with Transformers.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from packaging.version import InvalidVersion, Version
from transformers import GenerationConfig

from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.export.vllm import LORA_RANKS, require_served, served_folder
from hfkit.commands.serve.backends import Generated, Generation, ServingBackend
from hfkit.commands.serve.guard import KEY_VARIABLE
from hfkit.commands.serve.models import ServedModel
from hfkit.core.console import warn
from hfkit.core.errors import MISSING, ConfigError, HfkitError, Kind, Problem, reason
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import LOADED_FILES
from hfkit.models.generation import stop_ids
from hfkit.models.model_config import context_tokens, read_config
from hfkit.models.quantization import quantization_as_trained
from hfkit.records.base import same_base
from hfkit.records.source import Source

SECONDS_TO_START, SECONDS_TO_END = 1800, 3
SECONDS_TO_ANSWER = 600.0
BASE = "base"
WITHOUT_BITSANDBYTES = Version("0.28")
"""The first version of vLLM that cannot load 4-bit bases of bitsandbytes."""
PRIVATE = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_DO_NOT_TRACK": "1"}


def find_vllm() -> str | None:
    """Return the program `vllm`, that of this Python's environment first; None if it is not installed."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("vllm", path=folders)


def chosen_backend(given: str | None, paths: dict[str, str]) -> str:
    """Return the backend: the given one, else vLLM if it is installed, has a GPU and can serve the models.

    Raises:
        ConfigError: the given one is not installed, or cannot serve the models.
    """
    if given == "transformers":
        return given
    is_wanted = given == "vllm"
    if find_vllm() is None:
        if is_wanted:
            problem = Problem("vllm", MISSING, "pip install 'hfkit[vllm]', or --backend transformers", Kind.NOT_HERE)
            raise ConfigError([problem], "the installed packages")
        return "transformers"
    if not is_wanted and not torch.cuda.is_available():
        return "transformers"
    try:
        require_one_base(paths)
    except HfkitError as error:
        if is_wanted:
            raise
        warn(f"served with Transformers: {error}")
        return "transformers"
    return "vllm"


def require_one_base(paths: dict[str, str]) -> None:
    """Raise HfkitError if one vLLM server cannot serve these models."""
    sources = [Source.of(path) for path in paths.values()]
    first = base_source(sources)
    for source in sources:
        require_served(source)
        if not same_base(source, first) or (source.adapter is None and source != first):
            raise HfkitError(
                f"vLLM serves one base, but {source.path} is on {source.base} and {first.path} on {first.base}: start "
                "a server for each, or use --backend transformers"
            )
    settings = [config and config.to_dict() for config in map(quantization_as_trained, paths.values())]
    if any(one != settings[0] for one in settings):
        raise HfkitError("vLLM serves one base, but the models were trained over different quantizations of it")
    if settings[0] and not settings[0].get("load_in_4bit"):
        raise HfkitError("vLLM cannot serve a base in 8 bits: use --backend transformers")
    if settings[0] and (release := release_without_bitsandbytes()):
        raise HfkitError(
            f"vLLM {release} cannot serve a base in 4 bits of bitsandbytes, which vLLM has not supported since "
            f"{WITHOUT_BITSANDBYTES}: use --backend transformers, or vLLM 0.27"
        )


def release_without_bitsandbytes() -> str | None:
    """Return the version of the installed vLLM if it has no bitsandbytes; None if it has, or if it is not known."""
    try:
        release = version("vllm")
        return release if Version(release) >= WITHOUT_BITSANDBYTES else None
    except (PackageNotFoundError, InvalidVersion):  # the program `vllm` may be in another environment
        return None


def base_source(sources: list[Source]) -> Source:
    """Return the full model among several sources; without one, the first adapter."""
    return next((source for source in sources if source.adapter is None), sources[0])


def uds_command(program: str, sources: dict[str, Source], dtype: str, context: int | None, uds: str) -> list[str]:
    """Return the command of the vLLM server.

    Args:
        sources: of the models by name.
        uds: the Unix socket on which it listens; adapters that have to be changed are copied next to it.
    """
    first = base_source([*sources.values()])
    full = [name for name, source in sources.items() if source.adapter is None] or [BASE]
    base = local_folder(first.base, first.base_revision, LOADED_FILES)
    command = [program, "serve", base, "--uds", uds, "--served-model-name", *full, "--dtype", dtype]
    command += ["--generation-config", "vllm"]  # no other sampling settings
    command += ["--max-model-len", str(context)] if context else []
    if quantization_as_trained(first.path, first.revision):
        command += ["--quantization", "bitsandbytes"]
    adapters = {name: source for name, source in sources.items() if source.adapter}
    if adapters:
        ranks = [(source.adapter or {}).get("r") or LORA_RANKS[0] for source in adapters.values()]
        names = [*adapters]
        folders = {name: served_folder(adapters[name], Path(f"{uds}-{names.index(name)}")) for name in names}
        command += ["--enable-lora", "--max-loras", str(len(adapters))]
        command += ["--max-lora-rank", str(next(rank for rank in LORA_RANKS if rank >= max(ranks)))]
        command += ["--lora-modules", *(f"{name}={Path(folder).resolve()}" for name, folder in folders.items())]
    return command


class VLLMBackend(ServingBackend):
    """A vLLM server, which ends with this object.

    Args:
        paths: of the models by name.
        loaded: reads their tokenizers.

    Raises:
        HfkitError: the server does not start.
    """

    name = "vllm"
    most_at_once = 64

    def __init__(self, paths: dict[str, str], loaded: LoadedModels):
        sources = {name: Source.of(path) for name, path in paths.items()}
        first = base_source([*sources.values()])
        config = read_config(first.base, first.base_revision)
        context = context_tokens(config)
        try:
            generation = GenerationConfig.from_pretrained(local_folder(first.base, first.base_revision, LOADED_FILES))
        except OSError:  # the model has none
            generation = GenerationConfig.from_model_config(config)
        self.models = {}
        for name, source in sources.items():
            tokenizer = loaded.read_tokenizer(source)
            self.models[name] = ServedModel(name, tokenizer, context, stop_ids(generation, tokenizer))
        self.folder = tempfile.TemporaryDirectory(prefix="hfkit-vllm-")  # only this user can open it
        self.socket = str(Path(self.folder.name) / "socket")
        command = uds_command(find_vllm() or "vllm", sources, loaded.dtype, context, self.socket)
        environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE} | PRIVATE
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
        try:
            self.wait()
        except BaseException:
            self.close()
            raise

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            HfkitError: it ended, or takes too long.
        """
        latest = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < latest:
            self.require_alive()
            connection = UnixConnection(self.socket, 5.0)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except (OSError, HTTPException):  # not yet
                pass
            finally:
                connection.close()
            time.sleep(0.2)
        raise HfkitError(f"vLLM did not start within {SECONDS_TO_START} s")

    def require_alive(self) -> None:
        """Raise HfkitError if the vLLM server has ended."""
        if (status := self.process.poll()) is not None:
            raise HfkitError(f"vLLM ended with status {status}: its messages are above; or use --backend transformers")

    def generate(self, work: Generation) -> Generated:
        """Generate a response; vLLM stops when the connection closes.

        Raises:
            HfkitError: vLLM reports an error.
        """
        request, model = work.request, work.model
        body = {
            "model": model.name,
            "prompt": work.ids,
            "max_tokens": work.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": 0,
            "stop_token_ids": model.stop_token_ids,
            "return_token_ids": True,
            "stream": True,
            **({} if request.seed is None else {"seed": request.seed}),
        }
        streamer, tokens = work.streamer(), []
        streamer.put(torch.tensor(work.ids))
        connection = UnixConnection(self.socket, SECONDS_TO_ANSWER)
        try:
            for choice in self.choices(connection, body):
                for token in choice.get("token_ids") or []:
                    tokens.append(token)
                    streamer.put(torch.tensor([token]))
                if work.is_ended():
                    break
        except (OSError, HTTPException) as error:
            raise HfkitError(f"vLLM does not answer: {reason(error)}") from error
        finally:
            connection.close()
        streamer.end()
        return work.generated(tokens)

    def choices(self, connection: "UnixConnection", body: dict) -> Iterator[dict]:
        """Yield the pieces of a response.

        Raises:
            HfkitError: vLLM reports an error.
        """
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise HfkitError(f"vLLM: status {response.status}: {response.read(2000).decode(errors='replace')}")
        for line in response:
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if not line.startswith(b"data:"):
                continue
            piece = json.loads(data)
            if "error" in piece:
                raise HfkitError(f"vLLM: {piece['error']}")
            yield from piece.get("choices") or []

    def close(self) -> None:
        """End the server and its children: its engine would keep the GPU's memory if the server were killed alone."""
        children = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in psutil.wait_procs(children, SECONDS_TO_END)[1]:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, SECONDS_TO_END)
        self.folder.cleanup()


class UnixConnection(HTTPConnection):
    """An HTTP connection over a Unix socket.

    Args:
        seconds: that the server may take between two pieces.
    """

    def __init__(self, path: str, seconds: float):
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
