"""Walks the lineage of a run: the models that it was made from, by its record and those of its parents."""

import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD
from hfkit.core.hub_retry import HubUnreachable
from hfkit.records.record import (
    known_record,
    model_identity,
    record_of,
    run_of_checkpoint,
    weights_hash,
    well_formed,
)
from hfkit.records.source import read_json

GONE = "no longer there"
MOST_MODELS = 250
NOT_PUSHED = "was not on the Hub when this was pushed"


def lineage_edges(lineage: list[dict], child: dict | None = None) -> Iterator[tuple[dict, dict | None]]:
    """Yield each entry of a record's `lineage` and its `parents`, depth first, with the entry that was made from it.

    Entries of the record itself come with `child`.
    """
    for entry in lineage:
        yield entry, child
        yield from lineage_edges(entry.get("parents", []), entry)


def ancestors(lineage: list[dict]) -> Iterator[dict]:
    """Yield each entry of a record's `lineage` and its `parents`, depth first."""
    return (entry for entry, _ in lineage_edges(lineage))


def family_records(models: Iterable[tuple[str, str]], local: bool = False) -> Iterator[tuple[str, str, dict]]:
    """Yield path, revision and record of models and of their ancestors, breadth first, each once.

    Skip a record that is missing, or unreadable (with a warning), and those that only it names.

    Args:
        models: path or Hub id, and revision, of each.
        local: whether to skip models that are not folders on this machine.
    """
    waiting, seen = [*models], set()
    for path, revision in waiting:
        path = str(Path(path).resolve()) if os.path.isdir(path) else path
        if (path, revision) in seen:
            continue
        seen.add((path, revision))
        record = (record_of(path) if os.path.isdir(path) else None) if local else known_record(path, revision)
        if record:
            yield path, revision, record
            waiting += [(parent["path"], parent["revision"] or "main") for parent in record.get("lineage", [])]


def lineage_of(path: str, revision: str = "main") -> dict:
    """Return the lineage of a run (folder or Hub id) as a tree of dicts.

    Returns:
        path, revision, stage, status, weights_sha256, seed, `step` (of a checkpoint), `data` (a dict per split: rows,
        kept, sources with their sha256), `base` (of an adapter), `role` (of a parent, else None), `now` (how a parent
        or base has changed since, or None) and `parents` (such dicts).

    Raises:
        HfkitError: there is no record, hfkit did not write it, or it leads to more than `MOST_MODELS` models.
    """
    record = record_of(path) if run_of_checkpoint(path) else read_json(path, RECORD, revision)
    if record is None:
        raise HfkitError(f"{path} has no record: expected the {RECORD} of a run in it")
    if well_formed(record) is None:
        raise HfkitError(f"the {RECORD} of {path} is not a valid record: restore the file that hfkit wrote")
    try:
        root = {"role": None, **model_identity(path, revision), "now": None}
        return node_of(root, record, descendants=(), counter=count(1))
    except (LookupError, TypeError, AttributeError) as error:
        raise HfkitError(f"the {RECORD} of {path} is not a valid record: {type(error).__name__}") from error


def node_of(model: dict, record: dict, descendants: tuple[tuple, ...], counter: Iterator[int]) -> dict:
    """Return the node of a model, with data from its record.

    Args:
        descendants: path and revision of each; a parent among them ends the branch.
        counter: counts the nodes; records that name the same parent twice would lead to 2^N.
    """
    if next(counter) > MOST_MODELS:
        raise HfkitError(f"the lineage of {descendants[0][0]} has more than {MOST_MODELS} models")
    descendants = (*descendants, (model["path"], model["revision"]))
    return {
        **model,
        **{key: record[key] for key in ("step", "stopped") if key in record},
        "stage": record.get("stage"),
        "status": record.get("status"),
        "seed": record.get("seed"),
        "data": {
            name: {key: split[key] for key in ("rows", "kept", "sources")}
            for name, split in record.get("data", {}).items()
        },
        "base": {**record["base"], "now": change_since(record["base"])} if record.get("base") else None,
        "parents": [parent_node(parent, descendants, counter) for parent in record.get("lineage", [])],
    }


def parent_node(entry: dict, descendants: tuple[tuple, ...], counter: Iterator[int]) -> dict:
    """Return the node of a parent from its entry, and from its own record if it has not changed since."""
    now, record = change_since(entry), None
    if now is None and (entry["path"], entry["revision"]) not in descendants:
        try:
            record = record_of(entry["path"], entry["revision"] or "main")
        except HubUnreachable:
            pass  # only the entry is known
        except HfkitError:
            now = f"{GONE}, or not accessible to you"
    model = {key: entry[key] for key in ("role", "path", "revision", "weights_sha256")}
    steps = {"step": entry["step"]} if entry.get("step") is not None else {}
    record = record or {"stage": entry["stage"], "lineage": entry["parents"], **steps}
    return node_of({**model, "now": now}, record, descendants, counter)


def change_since(model: dict) -> str | None:
    """Return how a local model has changed since it was recorded: it is missing, or has other weights; else None.

    A relative path names a model that was never pushed, in the record of a pushed one.
    """
    if model["revision"] is not None:  # a commit on the Hub never changes
        return None
    if not Path(model["path"]).is_absolute():
        return NOT_PUSHED
    if not os.path.isdir(model["path"]):
        return GONE
    recorded, now = model["weights_sha256"], weights_hash(model["path"])
    if recorded in (None, now):
        return None
    if now is None:
        return f"its weights are {GONE}"
    return f"its weights have changed since: was {recorded[:12]}, is {now[:12]}"
