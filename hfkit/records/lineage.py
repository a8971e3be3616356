"""The lineage of a run: what it was made from, read from its record and those of its parents."""

import os
from collections.abc import Iterator
from pathlib import Path

from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD
from hfkit.core.hub_retry import HubUnreachable
from hfkit.records.record import model_identity, record_of, weights_hash
from hfkit.records.source import read_json

GONE = "not there any more"


NOT_PUSHED = "was not on the Hub when this was pushed"


def ancestors(lineage: list[dict]) -> Iterator[dict]:
    """Yield every entry of a record's `lineage` list and of the `parents` lists below, depth first."""
    for entry in lineage:
        yield entry
        yield from ancestors(entry.get("parents", []))


def lineage_of(path: str, revision: str = "main") -> dict:
    """The tree of a run, folder or Hub id, as nested dicts.

    Returns:
        path, revision, stage, status, weights_sha256, seed, `data` (a dict per split: rows, kept, sources with their
        sha256), `base` (of an adapter), `role` (which part a parent took, else None), `now` (what has become of a
        parent or base since, or None) and `parents` (such dicts).

    Raises:
        HfkitError: there is no record, or it is not as hfkit writes it.
    """
    record = read_json(path, RECORD, revision)
    if record is None:
        raise HfkitError(f"{path} has no record: there is no {RECORD} of a run in it")
    try:
        return node_of({"role": None, **model_identity(path, revision), "now": None}, record, above=())
    except (LookupError, TypeError, AttributeError) as error:
        raise HfkitError(f"the {RECORD} of {path} is not as hfkit writes it: {type(error).__name__}") from error


def node_of(model: dict, record: dict, above: tuple[tuple, ...]) -> dict:
    """A model with what a record says of it.

    Args:
        above: path and revision of its descendants; a record that names one of them is not followed in a circle.
    """
    above = (*above, (model["path"], model["revision"]))
    return {
        **model,
        "stage": record.get("stage"),
        "status": record.get("status"),
        "seed": record.get("seed"),
        "data": {
            name: {key: split[key] for key in ("rows", "kept", "sources")}
            for name, split in record.get("data", {}).items()
        },
        "base": {**record["base"], "now": change_since(record["base"])} if record.get("base") else None,
        "parents": [parent_node(parent, above) for parent in record.get("lineage", [])],
    }


def parent_node(entry: dict, above: tuple[tuple, ...]) -> dict:
    """A parent from its line in a record, and from its own record where it is still what it was."""
    now, record = change_since(entry), None
    if now is None and (entry["path"], entry["revision"]) not in above:
        try:
            record = record_of(entry["path"], entry["revision"] or "main")
        except HubUnreachable:
            pass  # what its descendant knows of it has to do
        except HfkitError:
            now = f"{GONE}, or not for you to see"
    model = {key: entry[key] for key in ("role", "path", "revision", "weights_sha256")}
    told = {"stage": entry["stage"], "lineage": entry["parents"]}
    return node_of({**model, "now": now}, record or told, above)


def change_since(model: dict) -> str | None:
    """What has become of a local model since it was recorded: gone, or with other weights; None if neither.

    Without the folders above it, a path is that of a model that was on somebody's machine alone.
    """
    if model["revision"] is not None:  # a commit of the Hub's stays as it is
        return None
    if not Path(model["path"]).is_absolute():
        return NOT_PUSHED
    if not os.path.isdir(model["path"]):
        return GONE
    was, now = model["weights_sha256"], weights_hash(model["path"])
    if was in (None, now):
        return None
    if now is None:
        return f"its weights are {GONE}"
    return f"its weights have changed since: was {was[:12]}, is {now[:12]}"
