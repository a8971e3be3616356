"""Remember where local folders are on the Hub.

After a push or a pull, the folder's record has a key `hub`: repo_id, commit and the hash of the weights. With it,
adapters and descendants name their base and parents on the Hub, wherever these are stored locally.
"""

import os
from pathlib import Path

from hfkit.core.errors import Problem
from hfkit.core.files import RECORD, write_record
from hfkit.core.hub_ids import HUB_ID
from hfkit.records.record import read_record, weights_hash
from hfkit.records.source import ADAPTER_CONFIG

HubLocation = tuple[str, str]
"""Where a model is on the Hub: repository id and commit."""


def save_location(folder: Path, repo_id: str, commit: str) -> None:
    """Write where a folder is on the Hub into its record, if it has one."""
    record = read_record(folder)
    location = {"repo_id": repo_id, "commit": commit, "weights_sha256": weights_hash(folder)}
    if record is not None and record.get("hub") != location:
        write_record(folder / RECORD, record | {"hub": location})


def location_of(path: str | Path, weights: str | None = None) -> HubLocation | None:
    """Return where a folder is on the Hub with its current weights, or None if that is unknown.

    `weights` is the hash that these must have; by default any.
    """
    location = (read_record(path) or {}).get("hub")
    if not isinstance(location, dict) or location["weights_sha256"] != weights_hash(path):
        return None
    return (location["repo_id"], location["commit"]) if weights in (None, location["weights_sha256"]) else None


def is_local(path: str) -> bool:
    """Return whether a path names a local folder, existing or not, rather than a Hub id."""
    return bool(path) and (os.path.exists(path) or HUB_ID.match(path) is None)


def locate_base(folder: Path, record: dict | None, adapter: dict) -> HubLocation | Problem:
    """Return where the base of an adapter is on the Hub, or the problem if that is unknown.

    Args:
        folder: of the adapter.
        record: of the run that made it, if there is one.
        adapter: its adapter_config.json.
    """
    base, revision = adapter.get("base_model_name_or_path") or "", adapter.get("revision")
    recorded = (record or {}).get("base") or {}
    from_record = (recorded["path"], recorded["revision"]) if recorded.get("revision") else None
    key = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path"
    if not is_local(base):
        if revision or (from_record and from_record[0] == base):
            return base, revision or from_record[1]
        remedy = "has no revision and may change: set `revision` to the commit that the adapter was trained on"
        return Problem(key, base, remedy)
    local_weights = weights_hash(base) if os.path.isdir(base) else None
    location = location_of(base) if local_weights else None
    if location is None and from_record and local_weights in (None, recorded.get("weights_sha256")):
        location = from_record  # it was fetched from there
    if location is None and local_weights is None:
        return Problem(key, base, "no such folder: name the base that the adapter was trained on")
    return location or Problem(key, base, f"is not on the Hub: push it too with --with_base USER/{Path(base).name}")
