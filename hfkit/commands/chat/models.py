"""Models to talk with: each base is held once, however many adapters on it there are."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from hfkit.core.console import warn
from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD
from hfkit.models.adapters import with_adapter
from hfkit.models.generation import plain_generation, sampling_config, stop_ids
from hfkit.models.loading import is_classifier, load_base, read_tokenizer
from hfkit.models.quantization import quantization_as_trained
from hfkit.records.base import same_base
from hfkit.records.record import read_record
from hfkit.records.source import ADAPTER_CONFIG, Source, find_file
from hfkit.stages.checks.models import path_problems

BARE_BASE = "base"  # the name of a base without its adapters


@dataclass
class LoadedBase:
    """A base in memory, and whatever adapters it carries."""

    source: Source
    model: PreTrainedModel | PeftModel
    quantization: BitsAndBytesConfig | None

    def is_as(self, quantization: BitsAndBytesConfig | None) -> bool:
        """Whether the base is held in these bits."""
        ours, theirs = (one and one.to_dict() for one in (self.quantization, quantization))
        return ours == theirs

    @property
    def context(self) -> int | None:
        """Tokens that the model can look at, or None for no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


@dataclass
class ChatModel:
    """One way to speak: a base, with one of its adapters or with none."""

    name: str
    host: LoadedBase
    adapter: str | None
    tokenizer: PreTrainedTokenizerBase

    def speak(self, ids: list[int], length: int, temperature: float, write: Callable[[str], None]) -> tuple[str, bool]:
        """A reply to token ids, handed to `write` bit by bit.

        Returns:
            the reply, and whether Ctrl-C stopped it.
        """
        model, stream = self.host.model, ReplyStreamer(self.tokenizer, write)
        stops = stop_ids(model.generation_config, self.tokenizer)
        config = sampling_config(self.tokenizer, length, temperature, stops)
        given = torch.tensor([ids], device=model.device)
        try:
            with torch.inference_mode(), self.alone(), plain_generation(model):
                mask = torch.ones_like(given)
                model.generate(input_ids=given, attention_mask=mask, generation_config=config, streamer=stream)
        except KeyboardInterrupt:
            stream.end()
            return stream.text.strip(), True
        return stream.text.strip(), False

    @contextmanager
    def alone(self):
        """With this voice's adapter at work, and no other."""
        model = self.host.model
        if self.adapter is not None:
            model.set_adapter(self.adapter, inference_mode=True)
        bare = self.adapter is None and isinstance(model, PeftModel)
        with model.disable_adapter() if bare else nullcontext():
            yield


class ReplyStreamer(TextStreamer):
    """Hands text on as soon as its words are whole, and keeps it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write, self.text = write, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = text if self.text else text.lstrip()
        self.text += text
        if text:
            self.write(text)


class LoadedModels:
    """The voices at hand, by name; `dtype` is of the weights that are loaded."""

    def __init__(self, dtype: str = "float32"):
        self.dtype = dtype
        self.voices: dict[str, ChatModel] = {}
        self.hosts: list[LoadedBase] = []

    def add(self, path: str, revision: str = "main") -> ChatModel:
        """The model of a path, an adapter on a base that is there already if it stands on one of those.

        Raises:
            HfkitError: there is no language model there, or it cannot be loaded.
        """
        require_language_model(path, revision)
        source, quantization = Source.of(path, revision), quantization_as_trained(path, revision)
        for host in self.hosts:
            if source.adapter and host.is_as(quantization) and same_base(source, host.source):
                return self._settle(source, host)
        model = load_base(source.base, source.base_revision, dtype=self.dtype, quantization=quantization)
        self.hosts.append(LoadedBase(source, model, quantization))
        return self._settle(source, self.hosts[-1])

    def add_adapter(self, path: str, beside: ChatModel) -> ChatModel:
        """An adapter on the base of a voice.

        Raises:
            HfkitError: it is no adapter of a language model, or one on another base.
        """
        require_language_model(path)
        source, host = Source.of(path), beside.host
        if source.adapter is None:
            raise HfkitError(f"{path} is a full model and no adapter: set it beside the other with --against {path}")
        if not same_base(source, host.source):
            raise HfkitError(
                f"{path} stands on {source.base}, and {beside.name} on {host.source.base}: an adapter is switched to "
                f"on its own base; --against {path} sets it beside the other"
            )
        if not host.is_as(quantization_as_trained(path)):
            warn(f"{path} was trained over a base that was quantized otherwise than the one it stands on here")
        return self._settle(source, host)

    def on(self, host: LoadedBase) -> dict[str, ChatModel]:
        """Everything that can be switched to on a host, by name: its adapters, and its base without them."""
        voices = {name: voice for name, voice in self.voices.items() if voice.host is host}
        if all(voice.adapter for voice in voices.values()):
            voices[BARE_BASE] = ChatModel(BARE_BASE, host, None, next(iter(voices.values())).tokenizer)
        return voices

    def _settle(self, source: Source, host: LoadedBase) -> ChatModel:
        """Puts an adapter onto a host, and registers the voice by as much of its path as tells it from the others."""
        tokenizer, adapter = read_tokenizer(source.path, source.revision), None
        if source.adapter:
            adapter = f"adapter_{len(self.voices)}"
            host.model = with_adapter(host.model, source, adapter_name=adapter).eval()
        parts = Path(source.path).parts
        names = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        name = next((name for name in names if name not in self.voices), f"{source.path} ({len(self.voices) + 1})")
        self.voices[name] = ChatModel(name, host, adapter, tokenizer)
        return self.voices[name]


def require_language_model(path: str, revision: str = "main") -> None:
    """Raises HfkitError unless a path may hold a language model: a reward model or a tokenizer says nothing."""
    problems = path_problems("model", path)
    if problems:
        raise HfkitError(f"{path}: {problems[0].remedy}")
    stage = (read_record(path) or {}).get("stage")
    if stage == "tokenizer":
        raise HfkitError(f"{path} is a tokenizer: name a model, from `hfkit pretrain`, `hfkit sft` or `hfkit ppo`")
    if Path(path).is_dir() and not any(find_file(path, name) for name in ("config.json", ADAPTER_CONFIG)):
        places = [record.parent for record in sorted(Path(path).glob(f"*/{RECORD}"))]
        runs = [str(place) for place in places if (read_record(place) or {}).get("stage") in ("pretrain", "sft", "ppo")]
        hint = f"name one of its runs, {', '.join(runs)}" if runs else f"there is no config.json or {ADAPTER_CONFIG}"
        raise HfkitError(f"{path} holds no model: {hint}")
    if is_classifier(path, revision):
        raise HfkitError(f"{path} is a classifier, as reward models are: it scores replies and writes none")
