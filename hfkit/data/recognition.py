"""Recognizes the format of a source if neither a data card nor the entry defines how to read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import Dataset, Json, List

from hfkit.config.registry import STAGES
from hfkit.core.errors import HfkitError
from hfkit.data.cards import OPTIONAL_COLUMNS, Keep
from hfkit.data.columns import may_be_input, suggested_mapping, unread_columns
from hfkit.data.conversations import SYSTEM, is_conversation
from hfkit.data.conversions import expression_columns
from hfkit.data.formats import PAIR, Format, holds_conversations, matching_format
from hfkit.data.given_rows import path_in_yaml
from hfkit.data.message_texts import TEXTS


@dataclass(frozen=True)
class Reading:
    """How the columns of a source become those of a stage, by a card, an entry or a recognized format.

    Attributes:
        columns: the stage's column -> expression over the dataset's columns; unmapped columns keep their names.
        format: a line about the recognized format; "" without one.
    """

    columns: dict[str, str] = field(default_factory=dict)
    convert: Sequence[str] = ()
    keep: Sequence[Keep] = ()
    format: str = ""


def recognize(rows: Dataset, wanted: list[str], needed: list[str], label: str) -> Reading:
    """Return how to read a source by its columns; columns with the stage's names are not mapped.

    Args:
        rows: rows in the dataset's columns; for a stream, the first ones.
        wanted: the columns that the stage reads.
        needed: columns that keep their names.

    Raises:
        HfkitError: an unread column may belong to a prompt that other columns make up; the rows are for another stage;
            or they are a list within one row.
    """
    check_column_lists(rows, label)
    found = matching_format(rows, wanted, label)
    if found is None:
        check_list(rows, label)
        check_form(rows, wanted, label)
        return Reading()
    columns, keep, names = dict(found.columns), found.keep, rows.column_names
    if wanted == ["prompt"]:
        keep = ()  # the conditions are about responses
        columns = {name: columns[name] for name in ("prompt", "history") if name in columns} or columns
    is_mapped = any(name != expression for name, expression in columns.items())
    others = [] if found.form == "text" else [(SYSTEM, "system_prompt"), ("tools", "functions")]
    for name, other in others:
        if other in names and name not in (*names, *needed) and (is_mapped or name != SYSTEM):
            columns[name] = other
    if columns.get("prompt", "prompt") != "prompt":
        check_input(found, columns, [name for name in names if name not in needed], label)
    extras = [name for name in (*OPTIONAL_COLUMNS.get(found.form, ()), *dict(others)) if name in names]
    line = describe(found.name, columns, [name for name in extras if name not in columns], keep)
    columns = {name: f"{{{text}}}" if text in needed and text != name else text for name, text in columns.items()}
    is_mapped = any(name != expression for name, expression in columns.items())
    return Reading(columns if is_mapped else {}, found.convert, keep, line)


def check_input(found: Format, columns: dict[str, str], names: list[str], label: str) -> None:
    """Raise HfkitError if an unread column may belong to the prompt, which other columns make up."""
    used = {name for expression in columns.values() for name in expression_columns(expression)}
    inputs = [name for name in unread_columns(names, used, columns, [SYSTEM, "tools"]) if may_be_input(name)]
    if not inputs:
        return
    wider = suggested_mapping(inputs, {"prompt": columns["prompt"]})
    shown = {name: text for name, text in columns.items() if name != "prompt" or "prompt:" not in wider}
    wider = ", ".join(filter(None, [wider, as_yaml(shown)]))
    convert = f", convert: [{', '.join(found.convert)}]" if found.convert else ""
    raise HfkitError(
        f"{label}: {found.name} format, but {', '.join(inputs)} may belong to the prompt too. To include it: "
        f"datasets: [{{path: {path_in_yaml(label)}, columns: {{{wider}}}{convert}}}]; "
        f"to leave it out: columns: {{{as_yaml(columns)}}}{convert}"
    )


def check_list(rows: Dataset, label: str) -> None:
    """Raise HfkitError if a source is one row that contains the list of rows."""
    if len(rows) != 1 or any(map(is_conversation, rows.features.values())):
        return
    for name, kind in rows.features.items():
        if isinstance(kind, List) and isinstance(kind.feature, (dict, Json)):
            raise HfkitError(
                f"{label} is one object, whose key {name!r} holds a list of {len(rows[0][name])} objects: write only "
                "that list into the file"
            )


def check_column_lists(rows: Dataset, label: str) -> None:
    """Raise HfkitError if a source is one object that holds the list of the values of each column."""
    if len(rows) != 1:
        return
    lists = [name for name, kind in rows.features.items() if isinstance(kind, List) and kind.feature in TEXTS]
    if len(lists) > 1 and len({len(rows[0][name] or ()) for name in lists}) == 1 and lists == rows.column_names:
        raise HfkitError(
            f"{label} is one object with a list for each column ({', '.join(lists)}): write one object per row"
        )


def check_form(rows: Dataset, wanted: list[str], label: str) -> None:
    """Raise HfkitError if a source has pairs but the stage reads one response per row, or the reverse."""
    other = ["prompt", *PAIR] if "response" in wanted else ["messages", "prompt", "response"]
    found = matching_format(rows, other, label) if {"response", "chosen"} & {*wanted} else None
    if found is None:
        return
    if "response" in other:
        pairs = "prompt, completion and label" if found.keep else "prompt, chosen and rejected"
        reads = f"pairs ({pairs}) or rankings (prompt, replies, and ranks or scores)"
        raise HfkitError(f"{label}: its rows have one response each, as for SFT; this stage reads {reads}")
    columns = {"messages": "chosen"} if holds_conversations(rows, "chosen") else {"text": "chosen"}
    columns = {"prompt": found.columns["prompt"], "response": "chosen"} if "prompt" in found.columns else columns
    stages = ", ".join(name for name, spec in STAGES.items() if spec.form == "comparisons")
    raise HfkitError(
        f"{label}: its rows are pairs of responses (chosen, rejected), for these stages: {stages}. To train on the "
        f"chosen ones, map them: datasets: [{{path: {path_in_yaml(label)}, columns: {{{as_yaml(columns)}}}}}]"
    )


def as_yaml(columns: dict[str, str]) -> str:
    """Return a mapping of columns as written in a YAML, without braces."""
    texts = {name: expression.replace("\n", "\\n") for name, expression in columns.items()}
    return ", ".join(f'{name}: "{text}"' if "{" in text else f"{name}: {text}" for name, text in texts.items())


def describe(name: str, columns: dict[str, str], extras: list[str], keep: Sequence[Keep]) -> str:
    """Return a line about a format and the mapping of its columns."""
    made = {"history": "earlier turns", SYSTEM: "a system turn"}
    parts = []
    for column, expression in {**columns, **dict(zip(extras, extras, strict=True))}.items():
        names = " + ".join(expression_columns(expression))
        parts.append(column if column == names and column not in made else f"{names} -> {made.get(column, column)}")
    parts += [f"rows whose {test.column} is {str(test.equals).lower()}" for test in keep]
    return f"{name} format: {', '.join(parts)}"
