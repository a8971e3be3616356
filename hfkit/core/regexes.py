"""Detects regular expressions of models that could take exponential time (catastrophic backtracking)."""

import re
from dataclasses import dataclass

LONGEST_REGEX = 16384
MOST_REPEATS, MOST_OPTIONS = 5, 16
"""Limits of a sequence without alternatives: a repeat multiplies the time by the length of the text, an option by 2."""
FEW = 3
"""A group or character repeated at most this often, as in `(...){1,3}`, does not count as repeated."""
TOKEN = re.compile(
    r"""\\.                       # an escaped character
    | \[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]  # a class of characters, whose members are literal
    | \(\?\#[^)]*\)               # a comment
    | \((?:\?(?:[:=!>|]|<[=!]|P?<\w+>|[a-zA-Z-]+:?))?  # a group opens
    | \)
    | [*+?][+?]? | \{\d*(?:,\d*)?\}[?+]?  # a repeat
    | \| | .""",
    re.S | re.X,
)
COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}[?+]?")
LOOKING = ("(?=", "(?!", "(?<=", "(?<!")
CLASS = re.compile(r"\\[wdsWDS]|\[\^?(?:[^\[\]\\&]|\\[wdsWDSnrt]|\\[^\w\s])+\]")
"""Classes with the same meaning in Python and in the tokenizers library."""
LITERAL = re.compile(r"\\[^\w\s]|\\[nrt]|[^\\^$.|?*+()\[\]{}]", re.S)


@dataclass
class Group:
    """An open group.

    Attributes:
        start: the index of its first token.
        looks: whether it is a look-ahead or look-behind, which can match in one way only.
        varies: whether it holds a repeat or an option.
        branches: whether it holds alternatives.
        repeats: number of consecutive repeats in the current alternative and its groups; `options` likewise.
        most: the maximum of each over all alternatives: repeats and options.
    """

    start: int = 0
    looks: bool = False
    varies: bool = False
    branches: bool = False
    repeats: int = 0
    options: int = 0
    most: tuple[int, int] = (0, 0)

    def end_alternative(self) -> None:
        """Update the maximum, and reset the counts."""
        self.most = max(self.most[0], self.repeats), max(self.most[1], self.options)
        self.repeats = self.options = 0


def regex_fault(pattern: str) -> str | None:
    """Return why a regular expression may take exponential time, or None.

    A group that holds a repeat or alternatives, and is itself repeated, can match a text in exponentially many ways:
    `(a+)+`, `(a|a)*`, `(aa?)+`; an `is_unambiguous` group cannot. Consecutive repeats, `a*a*a*a*`, multiply.
    """
    if len(pattern) > LONGEST_REGEX:
        return f"has {len(pattern)} characters, more than {LONGEST_REGEX}"
    tokens = [token for token in TOKEN.findall(pattern) if not token.startswith("(?#")]
    groups = [Group()]  # the open groups
    ended: Group | None = None  # the group that the last token closed, if it is ambiguous
    for index, token in enumerate(tokens):
        if token.startswith("("):
            groups.append(Group(index + 1, token in LOOKING))
            ended = None
        elif token == ")" and len(groups) > 1:
            group = groups.pop()
            ended = close_group(group, groups[-1], tokens[group.start : index])
        elif (times := most_times(token)) is not None:
            if ended and times > FEW:
                return "repeats a group that holds repeats or alternatives"
            count_repeat(groups[-1], token, times, ended)
        else:
            if token == "|":
                groups[-1].branches = True
                groups[-1].end_alternative()
            ended = None
    while groups:
        group = groups.pop()
        group.end_alternative()
        if group.most[0] > MOST_REPEATS or group.most[1] > MOST_OPTIONS:
            return f"has more than {MOST_REPEATS} repeats, or {MOST_OPTIONS} optional parts, in a row"
    return None


def close_group(group: Group, outer: Group, tokens: list[str]) -> Group | None:
    """Add the counts of a group to the outer one; return the group if it can match a text in several ways."""
    group.end_alternative()
    repeats, options = group.most
    if group.looks:
        outer.most = max(outer.most[0], repeats), max(outer.most[1], options)
    else:
        outer.repeats, outer.options = outer.repeats + repeats, outer.options + options
    is_ambiguous = group.varies or (group.branches and not group.looks)
    if not is_ambiguous or is_unambiguous(tokens):
        return None
    outer.varies |= group.varies
    outer.branches |= group.branches and not group.looks
    return group


def count_repeat(group: Group, token: str, times: int, repeated: Group | None) -> None:
    """Count a repeat in its group."""
    if repeated:  # up to `FEW` times
        group.repeats += repeated.most[0] * (times - 1)
        group.options += repeated.most[1] * (times - 1)
    if (count := COUNT.fullmatch(token)) and not count[2]:
        return  # {3}: a fixed count
    group.varies = True
    group.repeats, group.options = group.repeats + (times > FEW), group.options + (times <= FEW)


def most_times(token: str) -> int | None:
    """Return the maximum count of a repeat, a large number if unlimited; None for other tokens."""
    if token[0] in "*+":
        return 1 << 30
    if token[0] == "?":
        return 1
    if not (count := COUNT.fullmatch(token)):
        return None
    return int((count[3] if count[2] else count[1])[:9] or (1 << 30 if count[2] else 0))


def is_unambiguous(tokens: list[str]) -> bool:
    r"""Return whether a repeated group of these tokens can match a text in one way only.

    It holds one repeat, followed (cyclically) by a character that the repeat does not match, as in `(\w+\.)*` and
    `(\.\w+)*`; or alternatives that begin with different characters, as in `(a|bc)*`.
    """
    if "|" in tokens:
        firsts = [after for before, after in zip(["|", *tokens], [*tokens, "|"], strict=True) if before == "|"]
        different = {one.lstrip("\\").casefold() for one in firsts}
        return "|" not in firsts and all(map(LITERAL.fullmatch, set(tokens) - {"|"})) and len(different) == len(firsts)
    repeats = [index for index, token in enumerate(tokens) if most_times(token) is not None]
    if len(repeats) != 1 or not all(
        CLASS.fullmatch(one) or LITERAL.fullmatch(one) for one in set(tokens) - {tokens[repeats[0]]}
    ):
        return False
    return excludes(tokens[repeats[0] - 1], tokens[(repeats[0] + 1) % len(tokens)])


def excludes(repeated: str, border: str) -> bool:
    """Return whether a character or class never matches a character."""
    character = {r"\n": "\n", r"\r": "\r", r"\t": "\t"}.get(border, border.removeprefix("\\"))
    return len(character) == 1 and bool(LITERAL.fullmatch(border)) and not re.fullmatch(repeated, character, re.I)
