"""The models of a chat; each base is loaded once for all of its adapters."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    TextStreamer,
)

from hfkit.commands.chat.response_text import ResponseText
from hfkit.config.registry import STAGES, spec_of
from hfkit.core.console import warn
from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD
from hfkit.core.interrupts import catch_interrupts
from hfkit.models.adapters import load_adapter
from hfkit.models.fitting import require_fitting, require_vocabulary
from hfkit.models.generation import sampling_config, stop_ids, without_generation_defaults
from hfkit.models.loading import is_classifier, load_base
from hfkit.models.model_config import context_tokens
from hfkit.models.quantization import quantization_as_trained
from hfkit.models.tokenizers import read_tokenizer, variables_fault
from hfkit.records.base import same_base
from hfkit.records.record import read_record
from hfkit.records.source import ADAPTER_CONFIG, Source, find_file
from hfkit.stages.checks.models import MODEL_CONFIGS, path_problems, weights_problems
from hfkit.training.checkpoints import checkpoints_in

BASE_NAME = "base"  # the name of a base without adapter
LANGUAGE_MODELS = ("base model", "assistant")  # among the outputs of stages


@dataclass
class LoadedBase:
    """A base in memory, with the adapters loaded onto it."""

    source: Source
    model: PreTrainedModel | PeftModel
    quantization: BitsAndBytesConfig | None

    def has_quantization(self, quantization: BitsAndBytesConfig | None) -> bool:
        """Return whether the base is quantized in this way."""
        ours, other = (config and config.to_dict() for config in (self.quantization, quantization))
        return ours == other

    @property
    def context(self) -> int | None:
        """Context length in tokens; None if unlimited."""
        return context_tokens(self.model.config)


@dataclass
class ChatModel:
    """A model to chat with: a base, with one of its adapters or without."""

    name: str
    base: LoadedBase
    adapter: str | None
    tokenizer: PreTrainedTokenizerBase

    def generate(
        self, ids: list[int], max_new_tokens: int, temperature: float, write: Callable[[str], None]
    ) -> tuple[str, bool]:
        """Sample a response to token ids; call `write` with each piece of its text.

        Returns:
            the response, and whether Ctrl-C stopped it.
        """
        response = ResponseText([], strips=True, write=write)
        streamer = PieceStreamer(self.tokenizer, response.add)
        config = sampling_config(self.tokenizer, max_new_tokens, temperature, self.stop_token_ids)
        with catch_interrupts() as pressed:
            try:
                self.generate_ids(ids, config, streamer, pressed.is_set)
            except KeyboardInterrupt:
                pressed.set()
                streamer.end()
        response.end()
        return response.text, pressed.is_set()

    def generate_ids(
        self, ids: list[int], config: GenerationConfig, streamer: TextStreamer, is_ended: Callable[[], bool]
    ) -> list[int]:
        """Return the token ids of a response to token ids; end early if `is_ended`."""
        model = self.base.model
        prompt = torch.tensor([ids], device=model.device)
        with torch.inference_mode(), self.active_adapter(), without_generation_defaults(model):
            made = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=config,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([lambda ids, scores: is_ended()]),
            )
        return made[0, len(ids) :].tolist()

    @property
    def stop_token_ids(self) -> list[int]:
        """The tokens that end a response."""
        return stop_ids(self.base.model.generation_config, self.tokenizer)

    @contextmanager
    def active_adapter(self):
        """Activate only this model's adapter, or none."""
        model = self.base.model
        if self.adapter is not None:
            model.set_adapter(self.adapter, inference_mode=True)
        disable = self.adapter is None and isinstance(model, PeftModel)
        with model.disable_adapter() if disable else nullcontext():
            yield


class PieceStreamer(TextStreamer):
    """Calls `write` with each piece of a response, as soon as its words are complete."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece on."""
        if text:
            self.write(text)


class LoadedModels:
    """The models of a chat by name.

    Args:
        dtype: of the weights to load.
        chat_template, chat_template_kwargs: as of `read_tokenizer`, for every model.
    """

    def __init__(
        self, dtype: str = "float32", chat_template: str | None = None, chat_template_kwargs: dict | None = None
    ):
        self.dtype, self.template_options = dtype, (chat_template, chat_template_kwargs)
        self.models: dict[str, ChatModel] = {}
        self.bases: list[LoadedBase] = []

    def add(self, path: str, revision: str = "main") -> ChatModel:
        """Load the model of a path; an adapter is loaded onto its base if that is loaded already.

        Raises:
            HfkitError: the path has no language model, or it cannot be loaded.
        """
        require_language_model(path, revision)
        source, quantization = Source.of(path, revision), quantization_as_trained(path, revision)
        require_fitting(source)
        require_vocabulary(source, self.read_tokenizer(source))
        for base in self.bases:
            if source.adapter and base.has_quantization(quantization) and same_base(source, base.source):
                return self.add_on(source, base)
        model = load_base(source.base, source.base_revision, dtype=self.dtype, quantization=quantization)
        self.bases.append(LoadedBase(source, model, quantization))
        return self.add_on(source, self.bases[-1])

    def add_adapter(self, path: str, other: ChatModel) -> ChatModel:
        """Load an adapter onto the base of another model.

        Raises:
            HfkitError: the path has no adapter of a language model, or its base is another one.
        """
        require_language_model(path)
        source, base = Source.of(path), other.base
        if source.adapter is None:
            if not Path(path).is_dir() and find_file(path, "config.json") is None:
                raise HfkitError(f"{path}: neither a folder nor a model in the Hub's cache: check the path")
            raise HfkitError(f"{path} is a full model, not an adapter: show it side by side with --against {path}")
        if not same_base(source, base.source):
            raise HfkitError(
                f"{path} was trained on {source.base}, but {other.name} on {base.source.base}, and --adapter needs "
                f"adapters of one base: show it side by side with --against {path}"
            )
        if not base.has_quantization(quantization_as_trained(path)):
            warn(f"{path} was trained on a base with another quantization: expect slightly different responses")
        return self.add_on(source, base)

    def add_on(self, source: Source, base: LoadedBase) -> ChatModel:
        """Load a source's adapter, if any, onto a base; name the model by the shortest unique end of its path."""
        tokenizer, adapter = self.read_tokenizer(source), None
        if source.adapter:
            adapter = f"adapter_{len(self.models)}"
            base.model = load_adapter(base.model, source, adapter_name=adapter).eval()
        if fault := variables_fault(tokenizer, self.template_options[1] or {}):
            warn(f"{source.path}: {fault}")
        parts = Path(source.path).parts
        names = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        name = next((name for name in names if name not in self.models), f"{source.path} ({len(self.models) + 1})")
        self.models[name] = ChatModel(name, base, adapter, tokenizer)
        return self.models[name]

    def read_tokenizer(self, source: Source) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a model, with the chat template of the chat."""
        return read_tokenizer(source.path, source.revision, *self.template_options)

    def models_on(self, base: LoadedBase) -> dict[str, ChatModel]:
        """Return the models on a base by name: its adapters, and the base without them."""
        models = {name: model for name, model in self.models.items() if model.base is base}
        if all(model.adapter for model in models.values()):
            models[BASE_NAME] = ChatModel(BASE_NAME, base, None, next(iter(models.values())).tokenizer)
        return models


def require_language_model(path: str, revision: str = "main") -> None:
    """Raise HfkitError if a path cannot be a language model, such as a tokenizer or a reward model."""
    problems = path_problems("model", path)
    if problems:
        saved = (one for one in checkpoints_in(Path(path)) if any((one / name).is_file() for name in MODEL_CONFIGS))
        newest = next(saved, None)
        raise HfkitError(f"{path}: {problems[0].remedy}{f', or name its checkpoint: {newest}' if newest else ''}")
    if output_of(path) == "tokenizer":
        stages = [f"`hfkit {name}`" for name, other in STAGES.items() if other.makes in LANGUAGE_MODELS]
        raise HfkitError(f"{path} is a tokenizer: name a model made by {' or '.join(stages)}")
    if Path(path).is_dir() and not any(find_file(path, name) for name in MODEL_CONFIGS):
        folders = [record.parent for record in sorted(Path(path).glob(f"*/{RECORD}"))]
        runs = [str(folder) for folder in folders if output_of(folder) in LANGUAGE_MODELS]
        hint = f"name one of its runs: {', '.join(runs)}" if runs else f"it has no config.json or {ADAPTER_CONFIG}"
        raise HfkitError(f"{path} holds no model: {hint}")
    if problems := weights_problems("model", path):
        raise HfkitError(f"{path}: {problems[0].remedy}")
    if is_classifier(path, revision):
        raise HfkitError(f"{path} is a classifier, such as a reward model, and cannot generate: name a language model")


def output_of(run: str | Path) -> str | None:
    """Return what the stage of a run makes, see `StageSpec`; None without a record."""
    spec = spec_of((read_record(run) or {}).get("stage"))
    return spec.makes if spec else None
