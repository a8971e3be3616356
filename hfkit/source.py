"""Where a model lies: a folder or a Hub repository, a full model or an adapter with its base."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from hfkit.errors import HfkitError

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """Where a model lies: its base, and the adapter on it if the path named an adapter."""

    path: str
    revision: str
    base: str
    base_revision: str
    adapter: dict | None

    @classmethod
    def of(cls, path: str, revision: str = "main") -> "Source":
        """Reads the adapter config, if there is one; no weights."""
        adapter = read_json(path, ADAPTER_CONFIG, revision)
        if adapter is None:
            return cls(path, revision, path, revision, None)
        base = adapter.get("base_model_name_or_path") or ""
        return cls(path, revision, base, adapter.get("revision") or "main", adapter)

    def is_adapter_on(self, other: "Source") -> bool:
        """Whether this is an adapter, and on the base of the other."""
        mine, theirs = (Path(base).resolve() if Path(base).is_dir() else base for base in (self.base, other.base))
        return self.adapter is not None and (mine, self.base_revision) == (theirs, other.base_revision)


def find_file(path: str, name: str, revision: str = "main") -> Path | None:
    """The file `name` of a model folder or Hub repository, fetched if need be; None where there is no such file."""
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except (EntryNotFoundError, LocalEntryNotFoundError):  # the latter: offline, and not in the cache
        return None


def read_json(path: str, name: str, revision: str = "main") -> dict | None:
    """The JSON file `name` of a model folder or Hub repository, or None where there is no such file.

    Raises:
        HfkitError: it holds no mapping.
    """
    file = find_file(path, name, revision)
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else None
    except ValueError as error:
        raise HfkitError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, (dict, NoneType)):
        raise HfkitError(f"{file} is not a JSON mapping")
    return content
