"""Locates a model: in a folder or a Hub repository, as a full model or as an adapter with its base."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from hfkit.core.errors import HfkitError
from hfkit.core.files import load_json_file
from hfkit.core.hub_fetch import fetch_file, missing_folder_error, require_model
from hfkit.core.hub_ids import split_revision
from hfkit.core.links import require_own_file
from hfkit.records.bounds import adapter_fault, shown

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("base_model_name_or_path", "revision", "peft_type", "task_type"), (str,)),
    **{"r": (int,), "lora_alpha": (int, float), "lora_dropout": (int, float), "target_modules": (list, str)},
}
"""The types of an adapter's settings that hfkit reads; each may be missing or None."""


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
            base: where the adapter's base is now; overrides its config.

        Raises:
            HfkitError: there is no such model; `base` is given for a full model; the base is an adapter itself; or the
                adapter's config has a value of a wrong type or out of bounds.
        """
        if problem := missing_folder_error(path):
            raise HfkitError(f"{path}: {problem}")
        path, revision = split_revision(path, revision)
        adapter = read_json(path, ADAPTER_CONFIG, revision)
        if adapter is None:
            require_model(path, revision)
            if base is not None:
                raise HfkitError(f"{path} is a full model and has no base: remove the base {base}")
            return cls(path, revision, path, revision, None)
        for key, kinds in ADAPTER_TYPES.items():
            if not isinstance(adapter.get(key), (*kinds, NoneType)):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise HfkitError(f"{path}: {key} in {ADAPTER_CONFIG} is {shown(adapter[key])}, not of type {expected}")
        if fault := adapter_fault(adapter):
            raise HfkitError(f"{path}: {ADAPTER_CONFIG}: {fault}")
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
        HfkitError: the repository or revision does not exist, the path is invalid, the file links to a path outside
            the folder, or the Hub returns errors.
    """
    if os.path.isdir(path):
        file = Path(path) / name
        if not file.is_file():
            return None
        require_own_file(file, Path(path))
        return file
    return fetch_file(path, name, revision)


def folder_of(path: str, revision: str = "main") -> Path | None:
    """Return a model's folder, or its snapshot in the Hub's cache, which is named after its commit; else None.

    A snapshot contains only the files fetched so far.
    """
    if os.path.isdir(path):
        return Path(path)
    file = find_file(path, "config.json", revision) or find_file(path, ADAPTER_CONFIG, revision)
    return file.parent if file else None


def read_json(path: str, name: str, revision: str = "main") -> dict | None:
    """Return the mapping in the JSON file `name` of a model folder or Hub repository; None if there is no such file.

    Raises:
        HfkitError: the file contains no mapping.
    """
    file = find_file(path, name, revision)
    try:
        content = load_json_file(file) if file else None
    except (OSError, ValueError) as error:
        raise HfkitError(f"{file} is not valid JSON: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise HfkitError(f"{file} is not a JSON mapping")
    return content
