"""`hfkit.json`: what a run was, from what, with what, and what came of it. Written whole or not at all."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

from hfkit.config.fields import HubFields
from hfkit.core.files import RECORD, file_hash, read_json_mapping
from hfkit.core.hub_ids import split_revision
from hfkit.records.source import ADAPTER_CONFIG, find_file, folder_of

# Where a run lies or is pushed to, and whether it was resumed, do not change what it makes.
NOT_HASHED = ("output_dir", "resume_from_checkpoint", *(field.name for field in fields(HubFields)))


def read_record(folder: str | Path) -> dict | None:
    """The record of a run's folder, or None where there is none that can be read."""
    return read_json_mapping(Path(folder) / RECORD)


def settings_of(config) -> dict:
    """A config as plain values, without what does not change the result; `extra` fields stand beside the others."""
    settings = {key: value for key, value in asdict(config).items() if key not in NOT_HASHED}
    return {**settings.pop("extra", {}), **settings}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a folder's model or adapter is loaded from, by name; [] where any is missing.

    Others may lie beside them (`consolidated.safetensors`), which another copy of the model need not have.
    """
    weights = "adapter_model" if (folder / ADAPTER_CONFIG).is_file() else "model"
    if (folder / f"{weights}.safetensors").is_file():
        return [folder / f"{weights}.safetensors"]
    index = read_json_mapping(folder / f"{weights}.safetensors.index.json")
    if index is None:
        return sorted(folder.glob("*.safetensors"))
    shards = [folder / name for name in sorted({*index.get("weight_map", {}).values()})]
    return shards if all(shard.is_file() for shard in shards) else []


def weights_hash(folder: str | Path) -> str | None:
    """SHA-256 over the weights of a folder; None for a Hub id or a folder without any in safetensors.

    With a single file it is that file's own hash, which is what the Hub shows for it.
    """
    with ThreadPoolExecutor() as pool:  # shards at once: a gigabyte takes a second
        digests = [*pool.map(file_hash, weight_files(Path(folder)))]
    if len(digests) < 2:
        return digests[0] if digests else None
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def model_identity(path: str, revision: str = "main") -> dict:
    """Which model it is: its whole path or Hub id, the commit of a Hub model, and the hash of its weights."""
    path, revision = split_revision(path, revision)
    folder = folder_of(path, revision)
    local = os.path.isdir(path)
    return {
        "path": str(Path(path).resolve()) if local else path,
        "revision": None if local else folder.name if folder else revision,
        "weights_sha256": weights_hash(folder) if folder else None,
    }


def record_of(path: str, revision: str = "main") -> dict | None:
    """The record of a model folder or Hub repository, or None where there is none that can be read."""
    file = find_file(path, RECORD, revision)
    return read_json_mapping(file) if file else None


def parent_of(role: str, path: str, revision: str = "main") -> dict:
    """One line of a run's lineage: the model that took a role, and which weights it had then."""
    record = record_of(path, revision) or {}
    return {
        "role": role,
        **model_identity(path, revision),
        "stage": record.get("stage"),
        "parents": record.get("lineage", []),
    }
