"""The facts about a run that its model card states: folder, record, stage, and id on the Hub."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from hfkit.config.registry import MERGE, StageSpec, spec_of
from hfkit.core.file_types import suffix_of
from hfkit.core.files import read_json_mapping
from hfkit.records.source import ADAPTER_CONFIG

# A namespace is required: a bare name may be the last part of a local path.
NAMESPACED_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class RunInfo:
    """A model, adapter or tokenizer with the record of its run; `repo_id` is None if the card stays in the folder."""

    folder: Path
    record: dict
    repo_id: str | None = None

    @property
    def stage(self) -> str:
        return self.record["stage"]

    @cached_property
    def specs(self) -> list[StageSpec]:
        """The spec of the stage; for a merge, also that of the adapter's stage. An unregistered stage has none."""
        parents = self.record["lineage"][:1] if self.is_merged else []
        return [spec for name in (self.stage, *(one["stage"] for one in parents)) if (spec := spec_of(name))]

    @property
    def is_merged(self) -> bool:
        return spec_of(self.stage) is MERGE

    @property
    def makes(self) -> str | None:
        """What the run made, as in `StageSpec`; None if unknown."""
        if self.record.get("task_type") == "SEQ_CLS":
            return "reward model"
        return next((spec.makes for spec in self.specs if spec.makes), None)

    @property
    def is_reward_model(self) -> bool:
        return self.makes == "reward model"

    @property
    def name(self) -> str:
        return self.repo_id.split("/")[-1] if self.repo_id else self.folder.resolve().name

    @property
    def load_path(self) -> str:
        """The argument of `from_pretrained`: the Hub id, or the folder as seen from its parent folder."""
        return self.repo_id or f"./{self.name}"

    @cached_property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER_CONFIG).is_file()

    @property
    def quantized_bits(self) -> int | None:
        """Bits of the base during the training of an adapter; None for full precision."""
        settings = self.record["config"]
        bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else None
        return bits if self.is_adapter else None

    @cached_property
    def tokenizer_config(self) -> dict:
        return read_json_mapping(self.folder / "tokenizer_config.json") or {}

    @cached_property
    def chat_template(self) -> str | None:
        file = self.folder / "chat_template.jinja"
        return file.read_text(encoding="utf-8") if file.is_file() else self.tokenizer_config.get("chat_template")

    @property
    def template_options(self) -> str:
        """The variables of the chat template, as further arguments of `apply_chat_template`."""
        variables = self.tokenizer_config.get("chat_template_kwargs") or {}
        return "".join(f", {name}={value!r}" for name, value in variables.items())

    @property
    def generic_classifier(self) -> dict | None:
        """The classifier to register before loading, see `describe_generic`; None if Transformers has it."""
        return self.record.get("generic_classifier")

    @property
    def registered(self) -> list | None:
        """The config and class to register before loading, see `describe_multimodal`; None if Transformers has them."""
        return self.record.get("registered")

    @property
    def multimodal(self) -> str | None:
        """What a model that also reads images was trained as, see `describe_multimodal`; None for other models."""
        return self.record.get("multimodal")

    @property
    def reward_sources(self) -> str:
        """One sentence on what scored the responses in training; "" if nothing did."""
        settings = self.record["config"]
        functions = [f"`{function}`" for function in settings.get("reward_functions") or []]
        parts = ["a reward model"] * bool(settings.get("reward_model_path")) + functions
        weights = [f"{weight:g}" for weight in settings.get("reward_weights") or []]
        weighted = f", with the weights {', '.join(weights)}" if weights else ""
        kind = "the function " if len(functions) == 1 else "the functions " if functions else ""
        scored = [f"{kind}{part}" if part == next(iter(functions), None) else part for part in parts]
        return f"Its rewards came from {' and '.join(scored)}{weighted}." if scored else ""

    @property
    def base(self) -> dict | None:
        """The base of an adapter, or the model that training started from, as the record names it."""
        return self.record.get("base") or next(iter(self.record["lineage"]), None)

    @property
    def base_id(self) -> str | None:
        """The Hub id of `base`; None if it is only local."""
        return self.base and hub_id(self.base)


def hub_id(model: dict) -> str | None:
    """Return the Hub id of a model of the lineage; None for a local folder, which has no revision."""
    return model["path"] if model.get("revision") else None


def model_name(model: dict) -> str:
    """Return the Hub id of a model of the lineage, or the last part of its local path."""
    return hub_id(model) or PurePath(model["path"]).name


def dataset_id(source: dict) -> str | None:
    """Return the Hub id of a source of rows; None for local files and folders."""
    path = source.get("path", "")
    return path if NAMESPACED_ID.fullmatch(path) and not suffix_of(path) and not os.path.exists(path) else None
