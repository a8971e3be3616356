"""What a card tells of: a run's folder with its record, and the name that it has, or will have, on the Hub."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from hfkit.core.file_types import BUILDERS
from hfkit.core.files import read_json_mapping
from hfkit.records.source import ADAPTER_CONFIG

# With the owner: a name alone may be all that is told of a folder.
OWNED = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Artefact:
    """A model, adapter or tokenizer as its record tells of it.

    Args:
        folder: where its files lie.
        record: of the run that made it.
        repo_id: where it is pushed; None for a card that stays here.
    """

    folder: Path
    record: dict
    repo_id: str | None = None

    @property
    def stage(self) -> str:
        return self.record["stage"]

    @property
    def name(self) -> str:
        return self.repo_id.split("/")[-1] if self.repo_id else self.folder.resolve().name

    @property
    def place(self) -> str:
        """What `from_pretrained` takes: the Hub id, or the folder as seen from the one that it lies in."""
        return self.repo_id or f"./{self.name}"

    @cached_property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER_CONFIG).is_file()

    @property
    def is_reward(self) -> bool:
        return self.stage == "reward" or self.record.get("task_type") == "SEQ_CLS"

    @cached_property
    def tokenizer_config(self) -> dict:
        return read_json_mapping(self.folder / "tokenizer_config.json") or {}

    @cached_property
    def template(self) -> str | None:
        """The chat template, if the tokenizer has one."""
        file = self.folder / "chat_template.jinja"
        return file.read_text(encoding="utf-8") if file.is_file() else self.tokenizer_config.get("chat_template")

    @property
    def template_ends_turns(self) -> bool:
        """Whether the template itself writes the end-of-text token after a reply."""
        eos = self.tokenizer_config.get("eos_token")
        eos = eos.get("content") if isinstance(eos, dict) else eos
        return any(name in str(self.template) for name in ("eos_token", eos) if name)

    @property
    def base(self) -> dict | None:
        """The model that it stands on, or that it was before its training: as the record has it."""
        return self.record.get("base") or next(iter(self.record["lineage"]), None)

    @property
    def base_id(self) -> str | None:
        """Hub id of that model; None where it is on this machine only."""
        return self.base and hub_id(self.base)


def hub_id(model: dict) -> str | None:
    """The Hub id of a model of the lineage; None for a folder, which alone has no revision."""
    return model["path"] if model.get("revision") else None


def model_name(model: dict) -> str:
    """A model of the lineage by its Hub id, or by the last part of its path: the rest is the machine's."""
    return hub_id(model) or PurePath(model["path"]).name


def dataset_id(source: dict) -> str | None:
    """The Hub id of a source of rows; None for files and folders."""
    path = source.get("path", "")
    is_file = any(path.removesuffix(".gz").endswith(suffix) for suffix in BUILDERS)
    return path if OWNED.fullmatch(path) and not is_file and not os.path.exists(path) else None
