"""Translates keys and verbs of other tools to hfkit's, from `other_tools.yaml`."""

from collections.abc import Collection
from functools import cache
from pathlib import Path

import yaml


@cache
def table() -> dict[str, dict]:
    """Return the keys and verbs of other tools."""
    return yaml.safe_load(Path(__file__).with_name("other_tools.yaml").read_text(encoding="utf-8"))


def translate(name: str, known: Collection[str], flag: str = "") -> tuple[str, tuple[str, ...]]:
    """Return what to write instead of another tool's key, and the hfkit keys that this names; "" and () if unknown.

    Args:
        known: the keys that can be set here; a key that corresponds to none of them is unknown.
        flag: the prefix of flags, if the key is one.
    """
    found = table()["keys"].get(name)
    if found is None:
        return "", ()
    ours = tuple(key for key in found.get("use", ()) if key in known)
    if found.get("use") and not ours:
        return "", ()
    return found.get("say") or f"hfkit calls it {' or '.join(f'{flag}{key}' for key in ours)}", ours
