"""Reads `hfkit.json`, the record of a run: its config, data, lineage and results."""

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType
from typing import get_args

from hfkit.config.fields import DatasetEntry
from hfkit.config.neutral_keys import NOT_RECORDED
from hfkit.config.validation import default_of, known_fields
from hfkit.core.console import warn
from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD, file_hash, read_json_mapping
from hfkit.core.hub_fetch import is_unknown
from hfkit.core.hub_ids import split_revision
from hfkit.core.masking import without_secrets
from hfkit.records.shards import shards_of
from hfkit.records.source import ADAPTER_CONFIG, find_file, folder_of

TYPES = {
    **dict.fromkeys(("stage", "status"), str),
    **dict.fromkeys(("config", "data", "base", "metrics", "evaluation", "environment", "hub"), dict),
    **dict.fromkeys(("lineage", "warnings", "notes"), list),
}
"""The types of a record's values by key; each value may be missing or None."""
MODEL_TYPES = {
    **dict.fromkeys(("role", "path", "revision", "weights_sha256", "stage", "quantization"), str),
    "parents": list,
}
"""The types of an entry of its lineage, or of its base."""
SPLIT_TYPES = {**dict.fromkeys(("rows", "kept"), int), "sources": list}
"""The types of a split of its data."""
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
OF_THE_END = ("status", "error", "signal", "metrics", "evaluation", "hub")
"""What the record of a run says about its end, and not about its checkpoints."""


def read_record(folder: str | Path) -> dict | None:
    """Return the record in a run's folder; None if there is no readable one."""
    return well_formed(read_json_mapping(Path(folder) / RECORD))


def well_formed(record: dict | None) -> dict | None:
    """Return a record if its values have the types that hfkit writes, else None."""
    if record is None or not has_types(record, TYPES):
        return None
    base, waiting = record.get("base"), [*(record.get("lineage") or [])]
    for entry in waiting:
        if not isinstance(entry, dict) or not {"role", "path", "revision", "weights_sha256"} <= entry.keys():
            return None
        parents = entry.get("parents")
        waiting += parents if isinstance(parents, list) else []
    for model in [*waiting, *([base] if base else [])]:
        if not isinstance(model.get("path"), str) or not has_types(model, MODEL_TYPES):
            return None
    for split in (record.get("data") or {}).values():
        if not isinstance(split, dict) or not has_types(split, SPLIT_TYPES):
            return None
        if not all(isinstance(source, dict) for source in split.get("sources") or []):
            return None
    return record


def has_types(values: dict, types: Mapping[str, type]) -> bool:
    """Return whether each of the values is of its type, missing or None."""
    return all(isinstance(values.get(key), (kind, NoneType)) for key, kind in types.items())


def settings_of(config) -> dict:
    """Return a config as plain values for a record, without secrets and the keys of its folder, resuming and the Hub.

    `extra` is merged into it.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in NOT_RECORDED}
    return without_secrets({**settings.pop("extra", {}), **settings})


def with_later_keys(settings: dict, config_class: type) -> dict:
    """Return recorded settings with the defaults of keys that were added later, including keys of datasets."""
    hints = known_fields(config_class)
    defaults = {field.name: default_of(field) for field in fields(config_class) if field.name in hints}
    later = {key: value for key, value in defaults.items() if value is not NO_DEFAULT and key not in NOT_RECORDED}
    completed = {**later, **settings}
    for key in hints:
        if DatasetEntry in get_args(hints[key]):
            completed[key] = [with_later_keys(entry, DatasetEntry) for entry in completed[key] or ()]
    return completed


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder's model or adapter, sorted by name; [] if one is missing.

    Other files, such as `consolidated.safetensors`, are ignored: another copy of the model may lack them.
    """
    weights = "adapter_model" if (folder / ADAPTER_CONFIG).is_file() else "model"
    if (folder / f"{weights}.safetensors").is_file():
        return [folder / f"{weights}.safetensors"]
    index = folder / f"{weights}.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        shards = [folder / name for name in shards_of(index)]
    except HfkitError:  # loading it reports why
        return []
    return shards if all(shard.is_file() for shard in shards) else []


def weights_hash(folder: str | Path) -> str | None:
    """Return the SHA-256 of the weights in a folder; None for a Hub id or a folder without safetensors.

    For a single file it is the hash that the Hub shows.
    """
    with ThreadPoolExecutor() as pool:  # in parallel: hashing takes a second per gigabyte
        digests = [*pool.map(file_hash, weight_files(Path(folder)))]
    if len(digests) < 2:
        return digests[0] if digests else None
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def model_identity(path: str, revision: str = "main") -> dict:
    """Return the identity of a model: its absolute path or Hub id, the commit of a Hub model, its weights_sha256."""
    path, revision = split_revision(path, revision)
    folder = folder_of(path, revision)
    local = os.path.isdir(path)
    return {
        "path": str(Path(path).resolve()) if local else path,
        "revision": None if local else folder.name if folder else revision,
        "weights_sha256": weights_hash(folder) if folder else None,
    }


def run_of_checkpoint(path: str | Path) -> tuple[Path, int] | None:
    """Return the folder of the run that wrote the checkpoint at a path, and its step; None for any other path."""
    folder = Path(path).resolve()
    number = CHECKPOINT.fullmatch(folder.name)
    if number is None or not folder.is_dir() or (folder / RECORD).is_file() or read_record(folder.parent) is None:
        return None
    return folder.parent, int(number[1])


def record_of(path: str, revision: str = "main") -> dict | None:
    """Return the record of a model folder or Hub repository; None if there is no readable one.

    That of a checkpoint is its run's, with its `step` and without what the run became later.
    """
    if owner := run_of_checkpoint(path):
        record = {name: value for name, value in (read_record(owner[0]) or {}).items() if name not in OF_THE_END}
        return {**record, "step": owner[1]}
    file = find_file(path, RECORD, revision)
    return well_formed(read_json_mapping(file)) if file else None


def known_record(path: str, revision: str = "main") -> dict | None:
    """Return the result of `record_of`; warn if there may be a record that cannot be read."""
    why = None
    try:
        if record := record_of(path, revision):
            return record
        if find_file(path, RECORD, revision):
            why = f"its {RECORD} is not a valid record"
        elif not os.path.isdir(path) and is_unknown(path, RECORD, revision):
            why = "the Hub cannot be reached"
    except HfkitError as error:
        why = str(error)
    if why:
        warn(f"{path}: {why}, so rows that it and its parents trained on or held out are not checked")
    return None


def lineage_entry(role: str, path: str, revision: str = "main") -> dict:
    """Return an entry of a run's lineage: a model with its role and its current weights.

    A checkpoint also has `run`, the folder of its run, and `step`.
    """
    record, owner = record_of(path, revision) or {}, run_of_checkpoint(path)
    return {
        "role": role,
        **model_identity(path, revision),
        "stage": record.get("stage"),
        "parents": record.get("lineage", []),
        **({"run": str(owner[0]), "step": owner[1]} if owner else {}),
    }
