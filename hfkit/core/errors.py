"""What hfkit tells its user when something is wrong: one line per problem, with the way out."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum

MISSING = "missing"  # the value of a Problem about a key that has none
# `hub_token` and `WANDB_API_KEY` are secrets; `max_new_tokens`, `tokenizer` and `pad_token` are not.
SECRET = re.compile(
    r"(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<![a-z])(token|password|secrets?|(api)?keys?)(?![a-z])", re.I
)


class HfkitError(Exception):
    """An error the user can act on: the command line prints its text alone and exits with `exit_status`."""

    exit_status = 1


class Kind(Enum):
    """What is wrong with a configuration; code asks for it, and never reads a remedy's words."""

    INVALID = "a value that is not allowed here"
    UNKNOWN = "a key that does not exist"
    NO_SUCH_FILE = "a path where there is no file"


@dataclass(frozen=True)
class Problem:
    """One fault of a configuration.

    Args:
        key: where it is.
        value: what was there.
        remedy: what to write instead.
        kind: what is wrong, for code that treats some problems differently.
        keys: the other keys that it is about: those it contradicts, or the one that an unknown key was meant to be.
    """

    key: str
    value: object
    remedy: str
    kind: Kind = Kind.INVALID
    keys: tuple[str, ...] = ()

    def under(self, prefix: str) -> "Problem":
        """Return the same problem of a part of a configuration, whose keys stand after `prefix` in the whole."""
        return replace(self, key=f"{prefix}{self.key}", keys=tuple(f"{prefix}{key}" for key in self.keys))

    def __str__(self) -> str:
        shown = self.value if self.value is MISSING else repr(masked(self.key, self.value))
        return f"{self.key}: {shown if len(shown) <= 80 else shown[:77] + '...'} -> {self.remedy}"


class ConfigError(HfkitError):
    """Everything wrong with a configuration, told at once; `source` names the file it came from, if any."""

    exit_status = 2

    def __init__(self, problems: Iterable[Problem], source: str | None = None):
        self.problems, self.source = list(problems), source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        headline = f"{count} in {self.source or 'the configuration'}:"
        return "\n".join([headline, *(f"  {problem}" for problem in self.problems)])


def reason(error: BaseException) -> str:
    """Why a library gave up: the kind and first line of the error at the root of its chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def masked(key: str, value: object) -> object:
    """`value` fit to print: `***` where its key, or a key within it, names a secret."""
    if SECRET.search(key):
        return "***"
    if isinstance(value, Mapping):
        return {name: masked(str(name), item) for name, item in value.items()}
    return [masked("", item) for item in value] if isinstance(value, list) else value


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    known = list(known)
    close = get_close_matches(name, known, n=1) or [other for other in known if name and other.startswith(name)]
    return close[0] if close else None
