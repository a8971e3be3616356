"""Names the models of a server by what the command line gives; imports no heavy library."""

import re
from pathlib import Path

from hfkit.core.errors import ConfigError, Problem
from hfkit.core.home import expand_home

NAMED = re.compile(r"(?P<name>[\w.:-][\w.:/-]{0,99})=(?P<path>.+)", re.DOTALL)


def name_models(given: list[str]) -> dict[str, str]:
    """Return the path of each model by its name: `NAME=PATH`, or a path, whose last folder is the name.

    The name of a model on the Hub is its id.

    Raises:
        ConfigError: two models have one name.
    """
    named: dict[str, str] = {}
    for word in given:
        found = None if Path(word).exists() else NAMED.fullmatch(word)
        path = expand_home(found["path"]) if found else word
        name = found["name"] if found else Path(path).resolve().name if Path(path).is_dir() else path
        if name in named:
            remedy = f"{named[name]} has this name too: name one of them with NAME={path}"
            raise ConfigError([Problem("model", name, remedy)], "the command line")
        named[name] = path
    return named
