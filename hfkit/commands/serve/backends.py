"""Generates responses with Transformers, one at a time: on the models that `hfkit chat` would load."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hfkit.commands.chat.models import ChatModel, LoadedModels, PieceStreamer
from hfkit.commands.serve.models import ServedModel
from hfkit.commands.serve.requests import Request
from hfkit.models.generation import sampling_config


@dataclass(frozen=True)
class Generation:
    """A response to generate.

    Args:
        ids: of the prompt.
        max_tokens: most tokens of the response.
        write: called with each piece of its text.
        is_ended: returns whether to end it early.
    """

    model: ServedModel
    ids: list[int]
    request: Request
    max_tokens: int
    write: Callable[[str], None]
    is_ended: Callable[[], bool]

    def streamer(self) -> PieceStreamer:
        """Return what turns tokens into text and writes it."""
        return PieceStreamer(self.model.tokenizer, self.write)

    def generated(self, tokens: list[int]) -> "Generated":
        """Return what was generated."""
        is_stopped = bool(tokens) and tokens[-1] in self.model.stop_token_ids
        kept = tokens[: len(tokens) - is_stopped]
        raw = self.model.tokenizer.decode(kept, skip_special_tokens=False) if self.request.tools else ""
        return Generated(len(tokens), is_stopped, raw)


@dataclass(frozen=True)
class Generated:
    """A response of a backend.

    Args:
        tokens: number of its tokens, with the one that ended it.
        is_ended: whether a stop token ended it.
        raw: its text with special tokens, without the stop token; "" without tools.
    """

    tokens: int
    is_ended: bool
    raw: str = ""


class ServingBackend:
    """Generates the responses of a server.

    Attributes:
        most_at_once: how many responses it generates at a time.
    """

    name: str
    most_at_once = 1
    models: dict[str, ServedModel]

    def generate(self, work: Generation) -> Generated:
        """Generate a response."""
        raise NotImplementedError

    def require_alive(self) -> None:
        """Raise HfkitError if it cannot generate any more."""

    def close(self) -> None:
        """Free what it holds outside this process."""


class TransformersBackend(ServingBackend):
    """Generates in this process. The adapters of one base share it.

    Args:
        paths: of the models by name.
        loaded: loads them.
    """

    name = "transformers"

    def __init__(self, paths: dict[str, str], loaded: LoadedModels):
        self.chat_models: dict[str, ChatModel] = {name: loaded.add(path) for name, path in paths.items()}
        self.models = {
            name: ServedModel(name, one.tokenizer, one.base.context, one.stop_token_ids)
            for name, one in self.chat_models.items()
        }

    def generate(self, work: Generation) -> Generated:
        """Generate a response as `ChatModel.generate` does, also with top-p and a seed."""
        request, model = work.request, work.model
        config = sampling_config(model.tokenizer, work.max_tokens, request.temperature, model.stop_token_ids)
        if config.do_sample:
            config.top_p = request.top_p
        torch.manual_seed(secrets.randbits(63) if request.seed is None else request.seed)
        chat_model = self.chat_models[model.name]
        return work.generated(chat_model.generate_ids(work.ids, config, work.streamer(), work.is_ended))
