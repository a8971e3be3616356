"""Decides which columns of a source a stage reads, and reports the others."""

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.cards import CONSUMED_COLUMNS, OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Recipe
from hfkit.data.conversations import SYSTEM, is_conversation, role_of_first
from hfkit.data.given_rows import path_in_yaml
from hfkit.data.rendering import TEMPLATE_KWARGS

TEMPLATE_COLUMNS = ["tools", TEMPLATE_KWARGS]
"""Columns that are read in addition to those of any form."""

# Words in names of columns that belong to the model's input, and endings of names that only describe it.
INPUT_WORDS = frozenset(
    """
    abstract article background body choices code context conversation conversations dialog dialogue doc docs
    document documents evidence facts history human hypothesis input inputs instruction instructions knowledge
    messages options paragraph passage persona post premise problem prompt prompts query question questions request
    schema sentence situation story system table task title topic user
    """.split()
)
DESCRIBING_WORDS = frozenset(
    "count hash id ids idx index lang language len length model name score source tokens type url".split()
)

TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
QUESTIONS = ("question", "query", "instruction", "input", "problem")
ANSWERS = ("response", "completion", "output", "answer", "solution")
SPELLINGS = {
    "messages": TURNS,
    "prompt": ("prompt", "instruction", *QUESTIONS),
    "response": ANSWERS,
    "text": ("text", "content", "document"),
}
"""Usual names of columns, in lowercase; the first one in the dataset is suggested."""

WRITTEN_COLUMNS = {"models", "flags", "note"}
"""Columns that hfkit adds to the rows that it writes, and that no stage reads: they are not reported."""
MAY_MATTER = "not read, but it may belong to the model's input:"
"""The start of the line about such columns."""


def form_columns(available: list[str], columns: dict[str, str], reads: list[str], needed: list[str]) -> list[str]:
    """Return the available columns to read. The mapped columns decide their form.

    If columns are mapped to `prompt` and `response`, a column `messages` of the dataset is not read.
    """
    by_name = {form: {*names, *OPTIONAL_COLUMNS.get(form, ())} for form, names in REQUIRED_COLUMNS.items()}
    ranking = by_name.pop("ranking")
    forms = [*by_name.values(), {"prompt", "completion"}, ranking - {"scores"}, ranking - {"ranks"}]
    mapped = {column for column in columns if column in reads and column not in (*needed, *TEMPLATE_COLUMNS, SYSTEM)}
    fit = [form for form in forms if mapped <= form]
    own = {*TEMPLATE_COLUMNS, SYSTEM}.union(*fit) if mapped and fit else {*reads}
    read = {*needed} | mapped | ({*reads} & own)
    return [column for column in available if column in read]


def mapped_columns(entry: DatasetEntry, reads: list[str]) -> dict[str, str]:
    """Return the columns that an entry without a card maps.

    Raises:
        HfkitError: it maps to a column that the stage does not read, or maps a column twice.
    """
    columns = entry.columns or {}
    reads = [*reads, *consumed_columns(entry.convert or [])]
    unknown = [column for column in columns if column not in reads]
    if unknown or len({*columns.values()}) < len(columns):
        wrong = f"map to {unknown}, which this stage does not read" if unknown else "map one column twice"
        raise HfkitError(f"{entry.path}: columns {columns} {wrong}; it reads {', '.join(named_columns(reads))}")
    return columns


def named_columns(reads: list[str]) -> list[str]:
    """Return the columns that messages name: those that a stage reads, without the variables of the chat template."""
    return [column for column in reads if column != TEMPLATE_KWARGS]


def consumed_columns(convert: Sequence[str]) -> list[str]:
    """Return the columns that conversions read and no stage does."""
    return [column for name in convert for column in CONSUMED_COLUMNS.get(name, ())]


def card_columns(recipe: Recipe, wanted: list[str]) -> dict[str, str]:
    """Return the columns of a card that a stage needs.

    Raises:
        HfkitError: the stage does not read its form.
    """
    if not can_read(wanted, recipe.form):
        raise HfkitError(
            f"{recipe.path} has the form {recipe.form}; this stage reads {', '.join(named_columns(wanted))}"
        )
    if wanted == ["prompt"] and "prompt" in recipe.columns and not recipe.convert:
        return {name: recipe.columns[name] for name in ("prompt", SYSTEM) if name in recipe.columns}
    return recipe.columns


def can_read(wanted: list[str], form: str) -> bool:
    """Return whether a stage that reads these columns can read a card's form; every form but text has prompts."""
    if wanted == ["prompt"]:
        return form != "text"
    return form != "prompts" and {*REQUIRED_COLUMNS[form]} <= {*wanted}


def unread_columns(available: list[str], used: set[str], columns: dict[str, str], read: list[str]) -> list[str]:
    """Return the columns of a dataset that a stage does not read.

    Args:
        available: all of them.
        used: columns that mapped expressions and a card's `keep` read.
        columns: the stage's column -> expression, as mapped.
        read: the columns of the stage that are read.
    """
    own = {*read} - {*columns}  # read without being mapped
    return [name for name in available if name not in used | own]


def may_be_input(name: str) -> bool:
    """Return whether a column, by its name, may belong to the model's input: `instruction`, `system_prompt`."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return bool(words) and words[-1] not in DESCRIBING_WORDS and bool(INPUT_WORDS & {*words})


def shadowed_columns(rows: Dataset, wanted: list[str]) -> dict[str, str]:
    """Return the columns that no row is read from, as {column: the column that takes precedence in each row}.

    Args:
        rows: with the stage's columns.
        wanted: the columns that the stage reads.
    """
    if wanted == ["prompt"]:
        order = (("prompt", ["messages"]),)
    elif "response" in wanted:
        order = (("messages", ["prompt", "response", "completion", "text"]), ("prompt", ["text"]))
        order += (("response", ["completion"]),)
    else:
        return {}
    full = [(first, names) for first, names in order if has_values(rows, first)]
    return {name: first for first, names in full[::-1] for name in names if name in rows.column_names}


def has_values(rows: Dataset, column: str) -> bool:
    """Return whether each row has a non-empty value in a column."""
    if column not in rows.column_names:
        return False
    values = rows.select_columns([column]).with_format("arrow")[:][column]
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(values)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        lengths = pc.binary_length(values)
    else:
        return False
    return values.null_count == 0 and bool(pc.all(pc.greater(lengths, 0)).as_py())


def unread_notes(unread: list[str], mapped: dict[str, str | None], is_chosen: bool = False) -> list[str]:
    """Return a line about the unread columns, and one about those that may belong to the input, if any.

    Args:
        mapped: the stage's columns that are read -> the dataset's; None if not mapped.
        is_chosen: whether the user has mapped the input, so that no column can be missing from it by mistake.
    """
    unread = [name for name in unread if name not in WRITTEN_COLUMNS]
    inputs = [name for name in unread if may_be_input(name)]
    notes = [f"columns not read: {', '.join(unread)}"] if unread else []
    if inputs and not is_chosen:
        mapping = suggested_mapping(inputs, mapped)
        advice = f"map the columns that the model should read, such as columns: {{{mapping}}}"
        if "messages" in mapped and "prompt:" in mapping:
            advice = "put all text that the model should read into the messages"
        notes.append(f"{MAY_MATTER} {', '.join(inputs)}: {advice}")
    return notes


def suggested_mapping(inputs: list[str], mapped: dict[str, str | None]) -> str:
    """Return the text of a mapping of columns that belong to the input, together with those already read."""
    column = next((name for name in ("prompt", "text") if name in mapped), "prompt")
    systems = [name for name in inputs if "system" in name.lower() and column != "text"]
    prompts = [name for name in inputs if name not in systems and name != "prompt"] or [*{"prompt"} & {*inputs}]
    parts = [f"system: {systems[0]}"] if systems else []
    read = mapped.get(column) or column
    texts = [f"{{{name}}}" for name in prompts]
    read = (read if "{" in read else f"{{{read}}}").replace("\n", "\\n")
    texts += [read] if column in mapped and prompts else []
    if len(prompts) == len(texts) == 1:
        parts.append(f"{column}: {prompts[0]}")
    elif prompts:
        parts.append(f'{column}: "' + "\\n\\n".join(texts) + '"')
    return ", ".join(parts)


def likely_mapping(available: list[str], wanted: list[str]) -> str:
    """Return the text of a likely mapping to a stage's columns, based on usual names, or of one to fill in."""
    names = {name.lower(): name for name in available}
    found = {one: next((names[name] for name in SPELLINGS.get(one, (one,)) if name in names), "") for one in wanted}
    found = {column: name for column, name in found.items() if name}
    if "messages" in found:
        found = {"messages": found["messages"]}
    elif "prompt" in found:
        found.pop("text", None)
    if found.get("prompt", "").lower() == "instruction" and "input" in names:
        found["prompt"] = f'"{{{names["instruction"]}}}\\n\\n{{{names["input"]}}}"'
    if not {"messages", "text", "replies"} & found.keys():
        found = dict.fromkeys(usual_columns(wanted), "YOUR_COLUMN") | found
    return ", ".join(f"{column}: {name}" for column, name in found.items())


def usual_columns(wanted: list[str]) -> list[str]:
    """Return the columns that a source of a stage usually has."""
    usual = ("prompt", "response", "chosen", "rejected")
    return [column for column in usual if column in wanted] or wanted[:1]


def check_prompt(rows: Dataset, unread: list[str], mapped: dict[str, str], label: str) -> None:
    """Raise HfkitError if the prompt of pairs would be guessed although an unread column may contain it.

    Args:
        rows: with the stage's columns.
        unread: the dataset's columns that are not read.
        mapped: the stage's mapped columns; pairs mapped without a prompt contain it in their responses.
    """
    names = rows.column_names
    if "messages" in names or "prompt" in names or not {"chosen", "rejected"} <= {*names} or "chosen" in mapped:
        return
    kind = rows.features["chosen"]
    if is_conversation(kind) and role_of_first(rows[0]["chosen"]) in ("system", "user"):
        return  # in whole conversations the roles show where the prompt ends
    if inputs := [name for name in unread if may_be_input(name)]:
        raise HfkitError(
            f"{label}: chosen and rejected have no column prompt, but it may be in {', '.join(inputs)}. Map it: "
            f"datasets: [{{path: {path_in_yaml(label)}, columns: {{{suggested_mapping(inputs, {})}}}}}]. If both "
            "responses begin with their prompt, map them: columns: {chosen: chosen, rejected: rejected}"
        )
