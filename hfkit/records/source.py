"""Where a model is: in a folder or a Hub repository, as a full model or as an adapter with its base."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from hfkit.core.errors import HfkitError
from hfkit.core.hub_fetch import fetch_file
from hfkit.core.hub_ids import split_revision

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """A model's path and revision, those of its base, and the adapter's config; a full model is its own base."""

    path: str
    revision: str
    base: str
    base_revision: str
    adapter: dict | None

    @classmethod
    def of(cls, path: str, revision: str = "main", base: str | None = None) -> "Source":
        """Return the source at a path; only an adapter's config is read.

        Args:
            path: folder, Hub id, or `user/name@revision`.
            base: where the adapter's base is now, in place of what its config says.

        Raises:
            HfkitError: `base` is given for a full model; or the base is an adapter itself.
        """
        path, revision = split_revision(path, revision)
        adapter = read_json(path, ADAPTER_CONFIG, revision)
        if adapter is None:
            if base is not None:
                raise HfkitError(f"{path} is a full model and has no base: remove {base}")
            return cls(path, revision, path, revision, None)
        if base is None:
            base = adapter.get("base_model_name_or_path") or ""
            if os.path.isdir(base) and read_json(base, ADAPTER_CONFIG) is not None:
                raise HfkitError(
                    f"the base of the adapter {path} is an adapter itself, {base}: merge that with `hfkit merge`, and "
                    "set base_model_name_or_path in adapter_config.json to the result"
                )
            return cls(path, revision, base, adapter.get("revision") or "main", adapter)
        if read_json(base, ADAPTER_CONFIG) is not None:
            raise HfkitError(f"{base} is an adapter: name the full model that {path} was trained on")
        return cls(path, revision, *split_revision(base), adapter)


def find_file(path: str, name: str, revision: str = "main") -> Path | None:
    """Return the file `name` of a model folder or Hub repository, fetched if necessary; None if there is no such file.

    Raises:
        HfkitError: no such repository or revision, an invalid path, or the Hub answers with errors.
    """
    if os.path.isdir(path):
        file = Path(path) / name
        return file if file.is_file() else None
    return fetch_file(path, name, revision)


def folder_of(path: str, revision: str = "main") -> Path | None:
    """Return a model's folder, or its snapshot in the Hub's cache, which is named by its commit; else None.

    A snapshot holds only the files that were fetched so far.
    """
    if os.path.isdir(path):
        return Path(path)
    file = find_file(path, "config.json", revision) or find_file(path, ADAPTER_CONFIG, revision)
    return file.parent if file else None


def read_json(path: str, name: str, revision: str = "main") -> dict | None:
    """Return the mapping in the JSON file `name` of a model folder or Hub repository; None if there is no such file.

    Raises:
        HfkitError: the file holds no mapping.
    """
    file = find_file(path, name, revision)
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else None
    except ValueError as error:
        raise HfkitError(f"{file} is not JSON: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise HfkitError(f"{file} is not a JSON mapping")
    return content
