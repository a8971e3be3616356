"""Loads the rows to judge: a prompt with any number of responses, from rows of several forms."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from hfkit.config.fields import DatasetEntry
from hfkit.config.labeling import LabelConfig
from hfkit.core.errors import HfkitError
from hfkit.core.files import hash_of
from hfkit.data.cards import recipe_of
from hfkit.data.columns import TEMPLATE_COLUMNS
from hfkit.data.comparisons import pair_of, reply_to
from hfkit.data.conversions import prompt_of
from hfkit.data.files import read_rows
from hfkit.data.messages import Messages, RenderError, as_messages, as_reply, tools_of, without_nulls
from hfkit.data.rendering import TEMPLATE_KWARGS
from hfkit.data.source_rows import load_arguments
from hfkit.data.splits import SplitStats, load_rows

COLUMNS = ["messages", "prompt", "response", "completion", "chosen", "rejected", "replies", *TEMPLATE_COLUMNS]
ID = "id"
"""The column of feedback in which the responses that belong together have the same value."""
JOINED = "added to a row as another response to its prompt"


@dataclass(frozen=True)
class Row:
    """A prompt and its responses.

    Attributes:
        options: further columns that the chat template reads.
        columns: the columns for a reward function.
    """

    prompt: str | Messages
    replies: list[str | Messages]
    options: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """12 hexadecimal digits of the hash of its content; they do not depend on the row's index."""
        return hash_of([self.prompt, self.replies, self.options])[:12]

    @property
    def prompt_key(self) -> str:
        """The hash of what the responses are to."""
        return hash_of([self.prompt, self.options])

    def joined(self, other: "Row") -> "Row":
        """Return the row with the responses of another one that it lacks."""
        return replace(self, replies=[*self.replies, *(reply for reply in other.replies if reply not in self.replies)])

    def shown_prompt(self) -> list[dict]:
        """Return the messages of the prompt as texts with their roles."""
        return [{"role": one["role"], "content": message_text(one)} for one in as_messages(self.prompt)]

    def shown_replies(self) -> list[str]:
        """Return the responses as texts."""
        return ["\n\n".join(map(message_text, as_reply(reply))) for reply in self.replies]


def message_text(message: dict) -> str:
    """Return the content of a message as text, with the names and arguments of its tool calls."""
    calls = [one.get("function", one) for one in message.get("tool_calls") or []]
    parts = [message.get("content") or "", *(f"{one.get('name')}({one.get('arguments')})" for one in calls)]
    return "\n".join(filter(None, parts))


def load_label_rows(config: LabelConfig) -> tuple[list[Row], SplitStats]:
    """Load the rows of a config, each content once.

    Raises:
        HfkitError: the rows cannot be read, or none has a prompt.
    """
    stats, found, lost = SplitStats("rows"), {}, Counter()
    for entry in config.datasets:  # one by one: their columns may differ
        for identity, row in read_rows_of(entry, config, stats, lost):
            before = found.get(identity)
            found[identity] = row if before is None else before.joined(row)
            if before is not None:
                lost["repeated" if len(found[identity].replies) == len(before.replies) else JOINED] += 1
    rows = {row.key: row for row in found.values()}
    lost["repeated"] += len(found) - len(rows)
    stats.kept, stats.dropped = len(rows), dict(+lost)
    if not rows:
        raise HfkitError(f"{stats}\nNone of the rows has a prompt: map a column to `prompt` or `messages`.")
    return list(rows.values()), stats


def read_rows_of(
    entry: DatasetEntry, config: LabelConfig, stats: SplitStats, lost: Counter
) -> Iterator[tuple[object, Row]]:
    """Yield the rows of a dataset, each after its identity: rows with the same identity are joined into one.

    Args:
        stats: the number of rows and their sources are added to it.
        lost: counts rows that cannot be read, by the reason.
    """
    names = feedback_columns(entry)
    if names:  # with the rejected responses, which the stages leave out
        entry = replace(entry, columns={name: name for name in [*COLUMNS, ID] if name in names})
    wanted = [name for name in COLUMNS if name not in config.reward_columns]
    ids = [ID] if ID in names and ID not in config.reward_columns else []
    table, own = load_rows("rows", [entry], wanted, [*config.reward_columns, *ids], config.seed)
    stats.sources, stats.rows = stats.sources + own.sources, stats.rows + own.rows
    for given in own.capped(table):
        try:
            row = row_of(given, config.reward_columns)
        except RenderError as error:
            lost[str(error)] += 1
        else:
            yield (str(given[ID]), row.prompt_key) if ID in names and given[ID] else row.key, row


def feedback_columns(entry: DatasetEntry) -> list[str]:
    """Return the names of the columns of feedback, whose rows have a response and whether it is good; [] for others."""
    if entry.streaming or entry.columns or entry.convert or recipe_of(entry):
        return []
    names = read_rows(load_arguments(entry, None))[0].column_names
    return names if "label" in names and {"completion", "messages"} & {*names} else []


def row_of(given: dict, columns: list[str]) -> Row:
    """Return one row.

    Raises:
        RenderError: it has no prompt, or its responses cannot be read.
    """
    row = without_nulls({name: given[name] for name in COLUMNS if given.get(name) is not None})
    prompt = prompt_of(row)
    if not prompt:
        raise RenderError("without a prompt")
    replies = given_replies(row, prompt)
    as_messages(prompt)
    for reply in replies:
        as_reply(reply)
    tools = tools_of(row.get("tools"))
    options = {name: value for name, value in (("tools", tools), (TEMPLATE_KWARGS, row.get(TEMPLATE_KWARGS))) if value}
    return Row(prompt, replies, options, {name: given[name] for name in columns})


def given_replies(row: dict, prompt: str | Messages) -> list[str | Messages]:
    """Return the responses of a row: several, a pair, one, or none."""
    if row.get("replies"):
        return [reply_to(prompt, reply) for reply in row["replies"]]
    if "chosen" in row and "rejected" in row:
        return pair_of(row)[1]
    if row.get("messages"):
        following = row["messages"][len(prompt) :]
        return [following] if following else []
    reply = row.get("response") or row.get("completion")
    return [reply_to(prompt, reply)] if reply else []
