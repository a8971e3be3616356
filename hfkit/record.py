"""`hfkit.json`: what a run was, from what, with what, and what came of it. Written whole or not at all."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
# Where a run lies and whether it was resumed do not change what it makes.
NOT_HASHED = ("output_dir", "resume_from_checkpoint")


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


def weights_hash(folder: str | Path) -> str | None:
    """SHA-256 over the safetensors files of a folder by name; None for a Hub id or a folder without any.

    With a single file it is that file's own hash, which is what the Hub shows for it.
    """
    files = sorted(Path(folder).glob("*.safetensors")) if Path(folder).is_dir() else []
    digests = []
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
        digests.append(digest.hexdigest())
    if len(digests) < 2:
        return digests[0] if digests else None
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def parent_of(role: str, path: str, revision: str = "main") -> dict:
    """One line of a run's lineage: the model that took a role, and which weights it had then."""
    local = Path(path).is_dir()
    record = read_record(path) or {}
    return {
        "role": role,
        "path": str(Path(path).resolve()) if local else path,
        "revision": None if local else revision,
        "stage": record.get("stage"),
        "weights_sha256": weights_hash(path),
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


def peak_memory_bytes() -> int:
    """The most memory this process has held: of the GPU where there is one, else resident."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
