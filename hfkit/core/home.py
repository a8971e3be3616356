"""Expands `~` in paths: in a YAML and after `--key=` the shell does not."""

import os
import re

HOME = re.compile(r"~\w*(/|$)")


def expand_home(value):
    """Return a path with its leading `~` expanded, also within lists and mappings."""
    if isinstance(value, dict):
        return {name: expand_home(item) for name, item in value.items()}
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and HOME.match(value) else value
