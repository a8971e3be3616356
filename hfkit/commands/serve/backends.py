"""Generates responses with Transformers, one at a time: on the models that `hfkit chat` would load."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import StoppingCriteriaList, TextStreamer

from hfkit.commands.chat.models import ChatModel, LoadedModels
from hfkit.commands.serve.models import ServedModel
from hfkit.commands.serve.requests import Request
from hfkit.models.generation import sampling_config, stop_ids, without_generation_defaults


@dataclass(frozen=True)
class Generated:
    """A response of an engine.

    Args:
        tokens: number of its tokens, with the one that ended it.
        is_ended: whether a stop token ended it.
        raw: its text with special tokens, without the stop token; "" unless asked for.
    """

    tokens: int
    is_ended: bool
    raw: str = ""


class ServingBackend(Protocol):
    """Generates the responses of a server."""

    name: str
    most_at_once: int
    """How many responses it generates at a time."""

    @property
    def models(self) -> dict[str, ServedModel]:
        """The models by name."""

    def generate(
        self,
        model: ServedModel,
        ids: list[int],
        request: Request,
        max_tokens: int,
        write: Callable[[str], None],
        is_ended: Callable[[], bool],
    ) -> Generated:
        """Generate a response; call `write` with each piece of its text, and end early if `is_ended`."""

    def require_alive(self) -> None:
        """Raise HfkitError if it cannot generate any more."""

    def close(self) -> None:
        """Free what it holds outside this process."""


class Streamer(TextStreamer):
    """Calls `write` with each piece of a response, as soon as its words are complete."""

    def __init__(self, tokenizer, write: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece on."""
        if text:
            self.write(text)


class TransformersBackend:
    """Generates in this process. The adapters of one base share it.

    Args:
        paths: of the models by name.
        loaded: loads them.
    """

    name = "transformers"
    most_at_once = 1

    def __init__(self, paths: dict[str, str], loaded: LoadedModels):
        self.chat_models: dict[str, ChatModel] = {name: loaded.add(path) for name, path in paths.items()}
        self.models = {
            name: ServedModel(
                name, one.tokenizer, one.base.context, stop_ids(one.base.model.generation_config, one.tokenizer)
            )
            for name, one in self.chat_models.items()
        }

    def generate(
        self,
        model: ServedModel,
        ids: list[int],
        request: Request,
        max_tokens: int,
        write: Callable[[str], None],
        is_ended: Callable[[], bool],
    ) -> Generated:
        """Generate a response as `ChatModel.generate` does, also with top-p and a seed."""
        chat_model = self.chat_models[model.name]
        network = chat_model.base.model
        config = sampling_config(model.tokenizer, max_tokens, request.temperature, model.stop_token_ids)
        if config.do_sample:
            config.top_p = request.top_p
        prompt = torch.tensor([ids], device=network.device)
        torch.manual_seed(secrets.randbits(63) if request.seed is None else request.seed)
        with torch.inference_mode(), chat_model.active_adapter(), without_generation_defaults(network):
            made = network.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=config,
                streamer=Streamer(model.tokenizer, write),
                stopping_criteria=StoppingCriteriaList([lambda ids, scores: is_ended()]),
            )[0, len(ids) :].tolist()
        ended = bool(made) and made[-1] in model.stop_token_ids
        raw = model.tokenizer.decode(made[: len(made) - ended], skip_special_tokens=False) if request.tools else ""
        return Generated(len(made), ended, raw)

    def require_alive(self) -> None:
        """Do nothing: it is this process."""

    def close(self) -> None:
        """Do nothing: the weights go with the process."""
