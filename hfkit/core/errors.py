"""Errors that users see: one line per problem, with what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum

from hfkit.core.masking import MASK, mask_secrets, masked, resembles_secret

CLOSE = 0.75  # similarity of a typo and the name that was meant; names of other things may reach 0.74
MISSING = "missing"  # the value of a Problem about a key that has none


class HfkitError(Exception):
    """An error that the user can act on: the command line prints its message alone and exits with `exit_status`.

    Its text contains no secrets, whoever prints it. In a launch, `is_reported` marks an error that another process
    prints, and `is_of_peer` one about the failure of another process.
    """

    exit_status = 1
    is_reported = False
    is_of_peer = False

    def __str__(self) -> str:
        return mask_secrets(super().__str__())


class MissingFileError(HfkitError):
    """A file is missing that may be created later."""


class Kind(Enum):
    """The kind of a problem, for code to act on: code never reads the words of a remedy."""

    INVALID = "a value that is not allowed here"
    UNKNOWN = "a key that does not exist"
    NO_SUCH_FILE = "a path where there is no file"
    NOT_HERE = "something that this machine lacks: a package, a GPU, a server"


def kind_of_error(error: HfkitError) -> Kind:
    """Return the kind of the problem that an error reports."""
    return Kind.NO_SUCH_FILE if isinstance(error, MissingFileError) else Kind.INVALID


@dataclass(frozen=True)
class Problem:
    """One problem of a configuration.

    Args:
        key: the key at fault.
        value: its value, or `MISSING`.
        remedy: what to write instead.
        kind: for code that treats some problems differently.
        keys: the other keys that decide whether it is a problem: those that it contradicts, and the one that an
            unknown key was probably meant to be.
        file: the file that sets the value, if a config consists of several.
    """

    key: str
    value: object
    remedy: str
    kind: Kind = Kind.INVALID
    keys: tuple[str, ...] = ()
    file: str = ""

    def under(self, prefix: str) -> "Problem":
        """Return the problem with `prefix` before its keys, for a configuration that contains this one."""
        return replace(self, key=f"{prefix}{self.key}", keys=tuple(f"{prefix}{key}" for key in self.keys))

    def __str__(self) -> str:
        shown = str(self.value) if self.value is MISSING else mask_secrets(repr(self._masked_value()))
        shown = shown if len(shown) <= 80 else f"{shown[:30]}...{shown[-47:]}"  # the end of a path is its file
        where = f" (in {self.file})" if self.file else ""
        return mask_secrets(f"{self.key}: {shown} -> {self.remedy}{where}")

    def _masked_value(self) -> object:
        return MASK if resembles_secret(self.key) else masked(self.key, self.value)


class ConfigError(HfkitError):
    """All problems of a configuration; `source` names its file, if any."""

    exit_status = 2

    def __init__(self, problems: Iterable[Problem], source: str | None = None):
        self.problems, self.source = list(problems), source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        headline = mask_secrets(f"{count} in {self.source or 'the configuration'}:")
        return "\n".join([headline, *(f"  {problem}" for problem in self.problems)])


def reason(error: BaseException) -> str:
    """Return the type and first line of an error, or of the root of its chain of causes.

    For an HfkitError, return the message alone.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HfkitError):
        return mask_secrets(str(error))
    lines = [line.strip() for line in mask_secrets(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` probably misspells, or None; case and hyphens do not matter.

    First a name with two adjacent characters swapped, which `difflib` finds only in long names; then the most similar
    one; then one that begins with `name`.
    """
    spelled = {plain_spelling(other): other for other in known}
    name = plain_spelling(name)
    close = [other for other in spelled if other == name] or [other for other in spelled if is_swapped(name, other)]
    close = close or get_close_matches(name, spelled, n=1, cutoff=CLOSE)
    close = close or [other for other in spelled if name and other.startswith(name)]
    return spelled[close[0]] if close else None


def plain_spelling(name: str) -> str:
    """Return a name in lower case, with underscores instead of hyphens."""
    return name.lower().replace("-", "_")


def is_swapped(name: str, other: str) -> bool:
    """Return whether two names differ by the order of two adjacent characters."""
    if len(name) != len(other):
        return False
    differing = [index for index in range(len(name)) if name[index] != other[index]]
    if len(differing) != 2 or differing[1] != differing[0] + 1:
        return False
    first, second = differing
    return name[first] == other[second] and name[second] == other[first]
