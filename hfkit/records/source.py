"""Where a model lies: a folder or a Hub repository, a full model or an adapter with its base."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from hfkit.core.errors import HfkitError
from hfkit.core.hub_fetch import fetch_file
from hfkit.core.hub_ids import split_revision

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
    def of(cls, path: str, revision: str = "main", base: str | None = None) -> "Source":
        """Reads the adapter config, if there is one; no weights.

        Args:
            path: folder, Hub id, or `user/name@revision`.
            base: where the adapter's base lies now, in place of what its config says.

        Raises:
            HfkitError: a base for a full model, or one that is an adapter itself.
        """
        path, revision = split_revision(path, revision)
        adapter = read_json(path, ADAPTER_CONFIG, revision)
        if adapter is None:
            if base is not None:
                raise HfkitError(f"{path} is a full model and has no base: leave out {base}")
            return cls(path, revision, path, revision, None)
        if base is None:
            base = adapter.get("base_model_name_or_path") or ""
            return cls(path, revision, base, adapter.get("revision") or "main", adapter)
        if read_json(base, ADAPTER_CONFIG) is not None:
            raise HfkitError(f"{base} is an adapter: name the full model that {path} was trained on")
        return cls(path, revision, *split_revision(base), adapter)


def find_file(path: str, name: str, revision: str = "main") -> Path | None:
    """The file `name` of a model folder or Hub repository, fetched if need be; None where there is no such file.

    Raises:
        HfkitError: no such repository or revision, a path that cannot be one, or a Hub that answers with errors.
    """
    if os.path.isdir(path):
        file = Path(path) / name
        return file if file.is_file() else None
    return fetch_file(path, name, revision)


def folder_of(path: str, revision: str = "main") -> Path | None:
    """The folder that a model is read from: its own, or the Hub's snapshot in the cache, which a commit gives its name.

    None where neither is there; a snapshot holds only the files that were asked for so far.
    """
    if os.path.isdir(path):
        return Path(path)
    file = find_file(path, "config.json", revision) or find_file(path, ADAPTER_CONFIG, revision)
    return file.parent if file else None


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
