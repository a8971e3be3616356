"""`hfkit.json`: what a run was, from what, with what, and what came of it. Written whole or not at all."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from hfkit.config_fields import HubFields
from hfkit.hub.ids import split_revision
from hfkit.source import ADAPTER_CONFIG, find_file, folder_of

RECORD = "hfkit.json"
PACKAGES = (
    "hfkit",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
)
# Where a run lies or is pushed to, and whether it was resumed, do not change what it makes.
NOT_HASHED = ("output_dir", "resume_from_checkpoint", *(field.name for field in fields(HubFields)))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: a temporary file beside it, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def leavings(folder: Path) -> list[Path]:
    """Temporary files of `write_text` that a killed process left in a folder."""
    return [path for path in folder.glob(".*.tmp") if re.fullmatch(r"\.\w+\.\w+\.\d+\.tmp", path.name)]


def write_json(path: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_record(folder: str | Path) -> dict | None:
    """The record of a run's folder, or None where there is none that can be read."""
    return read_json_mapping(Path(folder) / RECORD)


def read_json_mapping(path: Path) -> dict | None:
    """The mapping in a JSON file, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def settings_of(config) -> dict:
    """A config as plain values, without what does not change the result; `extra` fields stand beside the others."""
    settings = {key: value for key, value in asdict(config).items() if key not in NOT_HASHED}
    return {**settings.pop("extra", {}), **settings}


def hash_of(settings: Any) -> str:
    """SHA-256 of any JSON value."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


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


def file_hash(file: Path) -> str:
    """SHA-256 of a file, read once as long as it stays as it is; in the Hub's cache large files are named by it."""
    file = file.resolve()
    if file.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", file.name):
        return file.name
    now = file.stat()
    return _hash_of_file(file, now.st_size, now.st_mtime_ns, now.st_ino)


@cache
def _hash_of_file(file: Path, *_state: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


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


def environment() -> dict:
    """Versions and the machine; no host name, user or path."""
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_count": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def reset_peak_memory() -> None:
    """Forgets the most memory of the GPU so far; of a process there is no such thing."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """The most memory this process has held: of the GPU (since `reset_peak_memory`) where there is one, else
    resident."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's figure is no less than that of the process which started this one
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
