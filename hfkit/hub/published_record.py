"""Prepare record and adapter config for the Hub: Hub ids instead of local paths, no host names, no secrets."""

import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from hfkit.config.fields import REVISION_KEYS
from hfkit.core.masking import masked
from hfkit.hub.locations import HubLocation, location_of

PART = r"/[\w.+@=-]+"
# A path of two parts or more, but not the one after the host of a URL; `file:///` has no host.
PATH = re.compile(rf"(?:(?<![\w/.])|(?<=://))(?:~|{PART})(?:{PART})+")
WITHOUT_BLANKS = re.compile(r"[\w.+@=/-]*")
"""A path that `PATH` finds completely; a path with spaces is found only if it is known."""
TOKENIZER = "tokenizer_name_or_path"


def adapter_config_for_hub(adapter: dict, base: HubLocation) -> bytes:
    """Return adapter_config.json with the base named by Hub id and commit."""
    config = adapter | {"base_model_name_or_path": base[0], "revision": base[1]}
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def record_for_hub(record: dict, base: HubLocation | None) -> dict:
    """Return a record with models named by Hub id and commit where known, and without paths, host name or secrets.

    Args:
        base: where the base of an adapter is on the Hub.
    """
    record = {key: value for key, value in record.items() if key != "hub"}
    locations = {}
    for model in mappings_in(record):
        if {"path", "weights_sha256"} <= model.keys() and model.get("revision") is None:
            is_base = base is not None and model["weights_sha256"] == (record.get("base") or {}).get("weights_sha256")
            location = base if is_base else location_of(model["path"], model["weights_sha256"])
            if location is not None:
                locations[model["path"]] = location
    return without_local_paths(record, locations, paths_with_blanks(record))


def mappings_in(content: object) -> Iterator[dict]:
    """Yield every mapping in a record, itself included."""
    if isinstance(content, dict):
        yield content
        content = [*content.values()]
    for item in content if isinstance(content, list) else []:
        yield from mappings_in(item)


def paths_with_blanks(record: dict) -> list[str]:
    """Return the known paths that contain spaces and may occur in the texts of a record, the longest first."""
    paths = {path for part in mappings_in(record) if isinstance(path := part.get("path"), str) and path[:1] == "/"}
    with_blanks = (path for path in {*paths, os.getcwd()} if not WITHOUT_BLANKS.fullmatch(path))
    return sorted(with_blanks, key=len, reverse=True)


def without_local_paths(content, locations: dict[str, HubLocation], known: Iterable[str] = ()):
    """Return a record, or a part of it, with Hub ids and commits instead of the paths that have them.

    Args:
        locations: Hub locations by resolved path.
        known: as for `without_paths`.
    """
    if isinstance(content, list):
        return [without_local_paths(item, locations, known) for item in content]
    if isinstance(content, str):
        return without_paths(content, known)
    if not isinstance(content, dict):
        return content
    # A number is not a secret, whatever its key: `tokens`, for example.
    visible = {key: masked(key, value) if isinstance(value, str) else value for key, value in content.items()}
    cleaned = {key: without_local_paths(value, locations, known) for key, value in visible.items()}
    for key, value in content.items():
        if isinstance(value, str) and value and (key in REVISION_KEYS or key == "path"):
            location = locations.get(str(Path(value).resolve())) or (location_of(value) if key == TOKENIZER else None)
            if location is not None:
                cleaned[key] = location[0]
                revision_key = REVISION_KEYS.get(key, "revision")
                if revision_key in cleaned:
                    cleaned[revision_key] = location[1]
    return cleaned


def without_paths(text: str, known: Iterable[str] = ()) -> str:
    """Return a text with each path shortened to its last part, and this machine's name replaced by HOST.

    Args:
        known: paths with spaces to look for; other paths are found by their form.
    """
    if text.startswith(("/", "~")) or ("/" in text and os.path.exists(text)):
        return Path(text).name
    for path in known:
        text = re.sub(rf"{re.escape(path)}(?:{PART})*", last_part, text)
    home = os.path.expanduser("~")
    text = text if WITHOUT_BLANKS.fullmatch(home) else text.replace(home, "~")
    text = PATH.sub(last_part, text)
    host = socket.gethostname()
    return re.sub(rf"\b{re.escape(host)}\b", "HOST", text) if len(host) > 3 and host != "localhost" else text


def last_part(match: re.Match) -> str:
    """Return the last part of a path found in a text."""
    return Path(match[0]).name
