"""Samples responses on a vLLM server (`vllm serve`) and sends it weights, through TRL's client.

TRL's client retries requests; this module does not, since a restarted server has other weights.
"""

import io
import ipaddress
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import torch
from packaging.version import InvalidVersion, Version
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as TooLateError

from hfkit.core.console import printable_line, warn
from hfkit.core.errors import reason
from hfkit.models.engine_errors import EngineError
from hfkit.models.named_weights import NamedWeight

if TYPE_CHECKING:
    from trl.generation.vllm_client import VLLMClient

ANSWER_BYTES = 16 << 20
"""Maximum bytes of an HTTP response; one with a sampled response has its text, and a few bytes per token."""
ASK_SECONDS = 30.0
"""Seconds that a server may take to describe itself."""
RESET_SECONDS = 5.0
"""Seconds that a server may take to finish other requests, so that its prefix cache can be reset."""
SHOWN_LENGTH = 300
"""Maximum characters of an HTTP response that a message quotes."""


class BoundedAdapter(BaseAdapter):
    """Sends each request once, and limits the size of HTTP responses to `ANSWER_BYTES` and the time until they end.

    Each request opens a new connection: a kept one may be closed while the next request is sent.

    Args:
        seconds: timeout of a request.
    """

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def send(self, request, stream=False, timeout=None, **options):
        """Return the response with its whole content."""
        latest, content, adapter = time.monotonic() + self.seconds, io.BytesIO(), HTTPAdapter()
        try:
            response = adapter.send(request, stream=True, timeout=self.seconds, **options)
            while part := response.raw.read(1 << 16, decode_content=True):
                content.write(part)
                if time.monotonic() > latest:
                    raise TooLateError
                if content.tell() > ANSWER_BYTES:
                    raise ValueError(f"the HTTP response has more than {ANSWER_BYTES} bytes")
            response.close()
        except TooLateError as error:
            raise requests.Timeout(request=request) from error
        except HTTPError as error:
            raise requests.ConnectionError(error, request=request) from error
        finally:
            adapter.close()
        response.raw = io.BytesIO(content.getvalue())
        return response

    def close(self) -> None:
        """Do nothing: no connection is kept."""


def bound_answers(session: requests.Session, seconds: float) -> None:
    """Limit the time and size of a session's HTTP responses, and follow no redirects: prompts go to no other server."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(seconds))
    session.max_redirects = 0


@dataclass(frozen=True)
class Served:
    """What a server serves: the names and paths of its model, its context length in tokens, and the dtype."""

    names: tuple[str, ...]
    context: int | None
    dtype: str | None


def served_by(url: str) -> Served:
    """Return the model that the vLLM server at a URL serves.

    Raises:
        EngineError: no server answers, or it is not a vLLM server that this client supports.
    """
    with requests.Session() as session:
        bound_answers(session, ASK_SECONDS)

        def get(path: str) -> requests.Response:
            response = session.get(f"{url.rstrip('/')}{path}")
            response.raise_for_status()
            return response

        try:
            get("/health")
            release = Version(get("/version").json()["version"]).base_version
            card = get("/v1/models").json()["data"][0]
            names = tuple(excerpt(str(card[key])) for key in ("id", "root") if card.get(key))
            context = None if card.get("max_model_len") is None else int(card["max_model_len"])
        except requests.ConnectionError as error:
            raise EngineError("no server listens there: start the server first") from error
        except (requests.RequestException, InvalidVersion, ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineError(f"it does not answer like a vLLM server: {excerpt(reason(error))}") from error
        own = Version(import_module("vllm").__version__).base_version
        if release != own:
            raise EngineError(f"it runs vLLM {release}, but {own} is installed here: install the same version")
        try:
            config = get("/server_info?config_format=json").json()["vllm_config"]
            if not config["weight_transfer_config"]:
                raise ValueError("it has no weight_transfer_config")
            dtype = config["model_config"].get("dtype")
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError) as error:
            remedy = "start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config"
            raise EngineError(f"its weights cannot be replaced ({excerpt(reason(error))}): {remedy}") from error
    return Served(names, context, dtype and excerpt(str(dtype).removeprefix("torch.")))


@dataclass(frozen=True)
class Server:
    """A vLLM server.

    Attributes:
        url: such as http://127.0.0.1:8000.
        timeout: seconds for a request, and for loading weights.
        group_port: port on this machine from which the server receives weights.
    """

    url: str
    timeout: float = 240.0
    group_port: int = 51216

    def load(self, weights: list[NamedWeight]) -> None:
        """Replace the weights that the server samples with.

        Raises:
            EngineError: the server cannot be reached, exceeds the timeout, or returns an error.
        """
        metadata = [(one.name, str(one.dtype).removeprefix("torch."), one.shape) for one in weights]

        gpu = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cuda"  # threads have their own

        def send() -> None:
            client = client_of(self)
            if client.communicator is None:
                client.init_communicator(device=gpu)
            client.update_named_params(metadata, ((one.name, one.value()) for one in weights))
            reset_prefix_cache(client)

        with self.explained("load the weights"):
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # vLLM reads the weights in its own CUDA streams
            in_thread(send).result(self.timeout)

    def sample(self, prompts: list[list[int]], seeds: list[int], sampling: dict[str, Any], at_once: int) -> list:
        """Return the token ids of a response to each prompt, as sent by the server.

        Args:
            seeds: one per response; responses of one request would share their random numbers.
            sampling: arguments of vLLM's `SamplingParams`.
            at_once: maximum number of concurrent requests.

        Raises:
            EngineError: the server cannot be reached, exceeds the timeout, or returns an error or an invalid response.
        """
        room = threading.Semaphore(at_once)

        def ask(client: "VLLMClient", prompt: list[int], seed: int) -> list[int]:
            with room:
                answer = client.generate([prompt], logprobs=None, generation_kwargs={**sampling, "seed": seed})
            if answer["prompt_ids"] != [prompt] or len(answer["completion_ids"]) != 1:
                raise ValueError("it belongs to another prompt")
            return answer["completion_ids"][0]

        with self.explained("sample"):
            client = in_thread(partial(client_of, self)).result(self.timeout)
            asked = [in_thread(partial(ask, client, *one)) for one in zip(prompts, seeds, strict=True)]
            return [reply.result() for reply in asked]

    def free(self) -> None:
        """Do nothing: the server has its own memory."""

    @contextmanager
    def explained(self, what: str):
        """Turn errors of TRL's client in a block into an EngineError that names what failed."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # TRL raises a plain Exception for an HTTP error
            client_of.cache_clear()
            why = excerpt(reason(error))
            if isinstance(error, (LateError, TimeoutError, requests.Timeout)):
                why = f"it exceeded the timeout of {self.timeout:g} seconds"
            elif isinstance(error, requests.ConnectionError):
                why = "the connection was refused or lost"
            remedy = "restart it, then resume the run with --resume_from_checkpoint"
            raise EngineError(f"the vLLM server at {self.url} did not {what}: {why}: {remedy}") from error


@cache
def client_of(server: Server) -> "VLLMClient":
    """Return TRL's client of a server, created once per process."""
    from trl.generation.vllm_client import VLLMClient  # noqa: PLC0415 - it imports vLLM, which takes seconds

    if not is_loopback(server.url):
        warn(f"prompts and weights are sent to {server.url} without encryption")
    served_by(server.url)  # TRL's client waits forever for a server that is not healthy
    client = VLLMClient(base_url=server.url, group_port=server.group_port)
    bound_answers(client.session, server.timeout)
    return client


def reset_prefix_cache(client: "VLLMClient") -> None:
    """Make a server forget the keys and values of older weights; TRL's client ignores whether the server did.

    A server refuses the reset while it computes a response, and for a moment after the end of a request.

    Raises:
        requests.RequestException: the server cannot be reached, or returns an error.
        ValueError: the server still refuses the reset after `RESET_SECONDS`.
    """
    latest = time.monotonic() + RESET_SECONDS
    while True:
        answer = client.session.post(f"{client.base_url}/reset_prefix_cache")
        answer.raise_for_status()
        if answer.json()["success"]:
            return
        if time.monotonic() > latest:
            raise ValueError("it still computes other responses, with the old weights in its prefix cache")
        time.sleep(0.1)


def is_loopback(url: str) -> bool:
    """Return whether a URL is only reachable on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def in_thread(function: Callable[[], Any]) -> Future:
    """Call a function in a daemon thread, since NCCL waits forever for a lost server."""
    result: Future = Future()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return result


def excerpt(text: str) -> str:
    """Return the start of a server's text on one line, for messages."""
    return printable_line(text[:SHOWN_LENGTH]) + "..." * (len(text) > SHOWN_LENGTH)
