"""Where models are on the Hub, and the record and adapter config that name them there.

A folder that was pushed remembers in its record where to: `hub` holds repo_id, commit and the hash of the weights. By
that its descendants name it, wherever it lies here; what is on this machine alone keeps the last part of its path.
"""

import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from hfkit.core.errors import Problem, masked
from hfkit.core.files import RECORD, write_json
from hfkit.core.hub_ids import HUB_ID
from hfkit.records.record import read_record, weights_hash
from hfkit.records.source import ADAPTER_CONFIG

Home = tuple[str, str]
"""Where a model is on the Hub: repository and commit."""
PART = r"/[\w.+@=-]+"
# Not what follows the host of a URL; a `file:///` has none.
PATH = re.compile(rf"(?:(?<![\w/.])|(?<=://))(?:~|{PART})(?:{PART})+")
PLAIN = re.compile(r"[\w.+@=/-]*")
"""A path that PATH tells from the words around it: one without blanks."""


def remember(folder: Path, repo_id: str, commit: str) -> None:
    """Notes in a folder's record, if it has one, where it was pushed to."""
    record = read_record(folder)
    home = {"repo_id": repo_id, "commit": commit, "weights_sha256": weights_hash(folder)}
    if record is not None and record.get("hub") != home:
        write_json(folder / RECORD, record | {"hub": home})


def home_of(path: str | Path, weights: str | None = None) -> Home | None:
    """Where a folder was pushed to, with the weights that it has now; with `weights`, only if these are those."""
    home = (read_record(path) or {}).get("hub")
    if not isinstance(home, dict) or home["weights_sha256"] != weights_hash(path):
        return None
    return (home["repo_id"], home["commit"]) if weights in (None, home["weights_sha256"]) else None


def is_local(path: str) -> bool:
    """Whether a path is one of this machine's, there or not."""
    return bool(path) and (os.path.exists(path) or HUB_ID.match(path) is None)


def base_home(folder: Path, record: dict | None, adapter: dict) -> Home | Problem:
    """Where the base of an adapter is on the Hub, or what is to be done first.

    Args:
        folder: of the adapter.
        record: of the run that made it, if there is one.
        adapter: its config.
    """
    base, revision = adapter.get("base_model_name_or_path") or "", adapter.get("revision")
    told = (record or {}).get("base") or {}
    from_record = (told["path"], told["revision"]) if told.get("revision") else None
    key = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path"
    if not is_local(base):
        if revision or (from_record and from_record[0] == base):
            return base, revision or from_record[1]
        remedy = "without a revision it is another base tomorrow: set `revision` to the commit that it was trained on"
        return Problem(key, base, remedy)
    here = weights_hash(base) if os.path.isdir(base) else None
    home = home_of(base) if here else None
    if home is None and from_record and here in (None, told.get("weights_sha256")):
        home = from_record  # it was fetched from there
    if home is None and here is None:
        return Problem(key, base, "it is not there: name the base that the adapter was trained on")
    return home or Problem(key, base, f"is on this machine alone: --with_base USER/{Path(base).name} pushes it too")


def adapter_for_hub(adapter: dict, home: Home) -> bytes:
    """An adapter config that names its base by Hub id and commit."""
    config = adapter | {"base_model_name_or_path": home[0], "revision": home[1]}
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def record_for_hub(record: dict, base: Home | None) -> dict:
    """A record with models by Hub id and commit where they have one, and without paths, host name or secrets.

    Args:
        base: where the base is, by now.
    """
    record = {key: value for key, value in record.items() if key != "hub"}
    homes = {}
    for model in models_in(record):
        if model.get("revision") is None:
            is_base = base is not None and model["weights_sha256"] == (record.get("base") or {}).get("weights_sha256")
            home = base if is_base else home_of(model["path"], model["weights_sha256"])
            if home is not None:
                homes[model["path"]] = home
    return without_machine(record, homes, places_of(record))


def models_in(record: dict) -> Iterator[dict]:
    """Every model that a record names with its weights: base, parents and theirs."""
    for part in mappings_in(record):
        if "weights_sha256" in part and isinstance(part.get("path"), str):
            yield part


def mappings_in(content: object) -> Iterator[dict]:
    """Every mapping in a record, the record itself among them."""
    if isinstance(content, dict):
        yield content
        content = [*content.values()]
    for item in content if isinstance(content, list) else []:
        yield from mappings_in(item)


def places_of(record: dict) -> list[str]:
    """The paths with blanks that may stand in the texts of a record, the longest first."""
    paths = {path for part in mappings_in(record) if isinstance(path := part.get("path"), str) and path[:1] == "/"}
    return sorted((path for path in {*paths, os.getcwd()} if not PLAIN.fullmatch(path)), key=len, reverse=True)


def without_machine(content, homes: dict[str, Home], places: Iterable[str] = ()):
    """A record, or a part of it, with Hub ids and commits in place of the paths that have them.

    Args:
        places: as for `without_places`.
    """
    if isinstance(content, list):
        return [without_machine(item, homes, places) for item in content]
    if isinstance(content, str):
        return without_places(content, places)
    if not isinstance(content, dict):
        return content
    cleaned = {key: without_machine(masked_text(key, value), homes, places) for key, value in content.items()}
    for key, value in content.items():
        if isinstance(value, str) and value and (key in MODEL_LINK or key == "path"):
            home = homes.get(str(Path(value).resolve())) or (home_of(value) if key == TOKENIZER else None)
            if home is not None:
                cleaned[key] = home[0]
                if MODEL_LINK.get(key, "revision") in cleaned:
                    cleaned[MODEL_LINK.get(key, "revision")] = home[1]
    return cleaned


TOKENIZER = "tokenizer_name_or_path"
# Settings that name a model, and those that name its revision.
MODEL_LINK = {
    "model_name_or_path": "model_revision",
    "reward_model_path": "reward_model_revision",
    TOKENIZER: None,
    "adapter": None,
    "base": None,
}


def masked_text(key: str, value: object) -> object:
    """A text that is a secret by its key as stars; figures have keys of that kind too, and no secrets."""
    return masked(key, value) if isinstance(value, str) else value


def without_places(text: str, places: Iterable[str] = ()) -> str:
    """A text with the last part of each path in it, and without the name of this machine.

    Args:
        places: paths with blanks, which nothing in the text itself tells from the words around them.
    """
    if text.startswith(("/", "~")) or ("/" in text and os.path.exists(text)):
        return Path(text).name
    for place in places:
        text = re.sub(rf"{re.escape(place)}(?:{PART})*", last_part, text)
    home = os.path.expanduser("~")
    text = text if PLAIN.fullmatch(home) else text.replace(home, "~")
    text = PATH.sub(last_part, text)
    host = socket.gethostname()
    return re.sub(rf"\b{re.escape(host)}\b", "HOST", text) if len(host) > 3 and host != "localhost" else text


def last_part(match: re.Match) -> str:
    """The last part of a path that was found in a text."""
    return Path(match[0]).name


def record_bytes(record: dict) -> bytes:
    """A record as its file."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
