"""Recognize the format of a source by its columns, where neither a data card nor the entry says how to read them.

To add a format, add it to `FORMATS`, in the words of a data card: a form, `columns`, `convert` and `keep`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from datasets import Dataset, List, Value

from hfkit.core.errors import HfkitError
from hfkit.data.cards import OPTIONAL_COLUMNS, Keep
from hfkit.data.columns import can_read, may_be_input, suggested_mapping, unread_columns
from hfkit.data.conversations import SYSTEM, find_roles, is_conversation, iter_roles, usual_role
from hfkit.data.conversions import CALL_ROLE, JSON, RESULT_ROLES, expression_columns
from hfkit.data.message_texts import TEXTS, parse_messages

Predicate = Callable[[Dataset, str], bool]


@dataclass(frozen=True)
class Reading:
    """How the columns of a source become those of a stage, as a card, an entry or a recognized format says.

    Attributes:
        columns: the stage's column -> expression over the data set's; those that are not mapped keep their names.
        format: a line about the recognized format; "" without one.
    """

    columns: dict[str, str] = field(default_factory=dict)
    convert: Sequence[str] = ()
    keep: Sequence[Keep] = ()
    format: str = ""


@dataclass(frozen=True)
class Format:
    """A format that people have.

    Attributes:
        name: as people call it.
        form, columns, convert, keep: as those of a data card. A source of this format has all the columns.
        holds: column of the data set -> what tells whether its values are those of this format. Other columns that get
            another name hold text.
        lacks: columns that a source of this format does not have: with them it is another one.
    """

    name: str
    form: str
    columns: dict[str, str]
    holds: dict[str, Predicate] = field(default_factory=dict)
    lacks: Sequence[str] = ()
    convert: Sequence[str] = ()
    keep: Sequence[Keep] = ()


def has_turns(rows: Dataset, column: str) -> bool:
    """Return whether a column holds conversations, or texts that are the JSON of them."""
    if rows.features[column] in TEXTS:
        return parse_messages(first_value(rows, column) or "") is not None
    return is_conversation(rows.features[column])


def has_sharegpt_turns(rows: Dataset, column: str) -> bool:
    """Return whether a column holds conversations whose turns have `from` and `value`."""
    first = first_value(rows, column)
    first = first[0] if isinstance(first, list) and first else first
    return is_conversation(rows.features[column]) and isinstance(first, dict) and bool(first.get("from"))


def has_calls(rows: Dataset, column: str) -> bool:
    """Return whether a column holds ShareGPT's turns with calls of functions or their results."""
    return has_sharegpt_turns(rows, column) and bool({CALL_ROLE, *RESULT_ROLES} & {*find_roles(rows, column, False)})


def ends_open(rows: Dataset, column: str) -> bool:
    """Return whether a column holds conversations that end with a question."""
    roles = [*iter_roles(first_value(rows, column))]
    return bool(roles) and usual_role(roles[-1]) != "assistant"


def has_replies(rows: Dataset, column: str) -> bool:
    """Return whether a column holds replies alone, and no conversations that begin with their prompt."""
    first = first_value(rows, column)
    roles = [*iter_roles([first] if isinstance(first, dict) else first)]
    return not roles or usual_role(roles[0]) not in ("system", "user")


def has_labels(rows: Dataset, column: str) -> bool:
    """Return whether a column holds true and false, or 1 and 0.

    Raises:
        ValueError: it holds them as texts.
    """
    kind = rows.features[column]
    if kind in TEXTS and {str(value).lower() for value in rows.unique(column)} <= {"true", "false"}:
        raise ValueError(f"the column {column!r} holds text: write true and false without quotes, in a CSV True and False")
    return kind == Value("bool") or (kind == Value("int64") and {*rows.unique(column)} <= {0, 1})


def has_anything(rows: Dataset, column: str) -> bool:
    """Return True: the values are looked at later."""
    return True


def both(*predicates: Predicate) -> Predicate:
    """Return a predicate that is true of a column where all of these are."""
    return lambda rows, column: all(predicate(rows, column) for predicate in predicates)


def first_value(rows: Dataset, column: str) -> object:
    """Return the first value of a column that is not empty; None without one."""
    return next((row[column] for row in rows.select_columns([column]) if row[column]), None)


TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
QUESTIONS = ("question", "query", "instruction", "input", "problem")
ANSWERS = ("response", "completion", "output", "answer", "solution")
INSTRUCTIONS = ("{instruction}\n\n{input}", "{instruction}\n\n{context}", "instruction")
HISTORY = ({"history": "history"}, {})
PAIR = {"chosen": "chosen", "rejected": "rejected"}
REPLIES = dict.fromkeys(PAIR, has_replies)
COMPLETION = {"prompt": "prompt", "completion": "completion"}
RATED = {"prompt": "prompt", "replies": "completion", "scores": "label"}
LABELS = {"label": has_labels, "completion": has_anything}
SHAREGPT = (("sharegpt", has_calls, ["function_calls"]), ("sharegpt", has_sharegpt_turns, []))

FORMATS = [
    Format("kto", "prompts", {"prompt": "prompt"}, LABELS),
    Format("kto", "prompt_response", COMPLETION, LABELS, keep=[Keep(column="label", equals=True)]),
    Format("kto", "ranking", RATED, LABELS, convert=["group_by_prompt", "drop_ties"]),
    Format("prompts", "prompts", {"prompt": "prompt"}),
    Format("rankings", "ranking", {"prompt": "prompt", "replies": "replies"}),
    Format("pairs", "preference", {"prompt": "prompt", **PAIR}),
    *(
        Format(
            f"{name} pairs",
            "preference",
            {"prompt": column, **PAIR},
            {column: both(holds, ends_open), **REPLIES},
            convert=convert,
        )
        for column in TURNS
        for name, holds, convert in (*SHAREGPT, ("messages", has_turns, []))
    ),
    *(
        Format(name, "messages", {"messages": column}, {column: holds}, [*PAIR] * (column != "messages"), convert)
        for column in TURNS
        for name, holds, convert in (*SHAREGPT, ("messages", has_anything if column == "messages" else has_turns, []))
    ),
    *(
        Format("alpaca pairs", "preference", {"prompt": prompt, **PAIR, **more}, REPLIES, convert=[*more])
        for prompt in INSTRUCTIONS
        for more in HISTORY
    ),
    *(
        Format("alpaca", "prompt_response", {"prompt": prompt, "response": reply, **more}, convert=[*more])
        for prompt in INSTRUCTIONS
        for reply in ("output", "response")
        for more in HISTORY
    ),
    *(Format("pairs", "preference", {"prompt": name, **PAIR}, REPLIES) for name in QUESTIONS),
    Format("pairs", "preference", PAIR),
    Format("prompt and response", "prompt_response", {"prompt": "prompt", "response": "response"}),
    Format("prompt and completion", "prompt_response", COMPLETION),
    Format("plain text", "text", {"text": "text"}),
    *(
        Format(
            f"{question} and {answer}",
            "prompt_response",
            {"prompt": question, "response": answer},
            lacks=[other for other in ANSWERS if other != answer],
        )
        for question in ("prompt", *QUESTIONS)
        for answer in ANSWERS
    ),
    *(Format("prompts", "prompts", {"prompt": prompt}) for prompt in (*INSTRUCTIONS[:2], *QUESTIONS)),
]
"""The formats. The first that a stage can read and that a source has is taken."""


def recognize(rows: Dataset, wanted: list[str], needed: list[str], label: str) -> Reading:
    """Return how to read a source by its columns; where they have the stage's own names, none is mapped.

    Args:
        rows: in the data set's columns; of a stream the first ones.
        wanted: the columns that the stage reads.
        needed: columns that keep their names.

    Raises:
        HfkitError: a column that is not read may belong to a prompt that is made of others; the rows are pairs, and the
            stage trains on one response per row; or they are a list within one row.
    """
    found = matching_format(rows, wanted, label)
    if found is None:
        check_list(rows, label)
        if "response" in wanted:
            check_pairs(rows, label)
        return Reading()
    columns, names = dict(found.columns), rows.column_names
    if wanted == ["prompt"] and "prompt" in columns:
        columns = {name: columns[name] for name in ("prompt", "history") if name in columns}
    is_mapped = any(name != expression for name, expression in columns.items())
    shown = {} if found.form == "text" else {SYSTEM: ("system_prompt",) * is_mapped, "tools": ("functions",)}
    for name, others in shown.items():
        if name not in (*names, *needed):
            columns |= {name: one for one in others if one in names}
    if columns.get("prompt", "prompt") != "prompt":
        check_input(found, columns, [name for name in names if name not in needed], label)
    extras = [name for name in (*OPTIONAL_COLUMNS.get(found.form, ()), *shown) if name in names]
    line = describe(found, columns, [name for name in extras if name not in columns])
    columns = {name: f"{{{text}}}" if text in needed else text for name, text in columns.items()}
    is_mapped = any(name != expression for name, expression in columns.items())
    return Reading(columns if is_mapped else {}, found.convert, found.keep, line)


def matching_format(rows: Dataset, wanted: list[str], label: str) -> Format | None:
    """Return the first format that a stage can read and that a source has; None if there is none.

    Raises:
        HfkitError: a column of one holds something else.
    """
    try:
        return next((one for one in FORMATS if can_read(wanted, one.form) and is_of(one, rows)), None)
    except ValueError as error:
        raise HfkitError(f"{label}: {error}") from error


def is_of(one: Format, rows: Dataset) -> bool:
    """Return whether a source has the columns of a format, with the values that it has there."""
    read = {name for expression in one.columns.values() for name in expression_columns(expression)}
    if not {*read, *one.holds} <= {*rows.column_names} or {*one.lacks} & {*rows.column_names}:
        return False
    texts = read - {*one.holds} - {name for name, expression in one.columns.items() if name == expression}
    return all(isinstance(rows.features[name], Value) for name in texts) and all(
        holds(rows, name) for name, holds in one.holds.items()
    )


def check_input(found: Format, columns: dict[str, str], names: list[str], label: str) -> None:
    """Raise an HfkitError if a column that is not read may belong to the prompt, which is made of other columns."""
    used = {name for expression in columns.values() for name in expression_columns(expression)}
    inputs = [name for name in unread_columns(names, used, columns, [SYSTEM, "tools"]) if may_be_input(name)]
    if not inputs:
        return
    others = {name: expression for name, expression in columns.items() if name != "prompt"}
    wider = suggested_mapping(inputs, {"prompt": columns["prompt"]})
    wider = [wider, *([] if "prompt:" in wider else [as_yaml({"prompt": columns["prompt"]})])]
    raise HfkitError(
        f"{label}: {found.name} format, but {', '.join(inputs)} may belong to the prompt too. Map what the model should "
        f"read: datasets: [{{path: {label}, columns: {{{', '.join([*wider, as_yaml(others)]).strip(', ')}}}}}]; "
        f"or leave it out: columns: {{{as_yaml(columns)}}}"
    )


def check_list(rows: Dataset, label: str) -> None:
    """Raise an HfkitError if a source is one row that holds the list of the rows."""
    for name, kind in rows.features.items() if len(rows) == 1 else []:
        if isinstance(kind, List) and isinstance(kind.feature, (dict, JSON)) and not is_conversation(kind):
            raise HfkitError(
                f"{label} is one object, whose key {name!r} holds a list of {len(rows[0][name])} objects: write that list "
                "alone into the file"
            )


def check_pairs(rows: Dataset, label: str) -> None:
    """Raise an HfkitError if a source has pairs, for a stage that trains on one response per row."""
    found = matching_format(rows, ["prompt", *PAIR], label)
    if found is None:
        return
    columns = {"messages": "chosen"} if has_turns(rows, "chosen") else {"text": "chosen"}
    columns = {"prompt": found.columns["prompt"], "response": "chosen"} if "prompt" in found.columns else columns
    raise HfkitError(
        f"{label}: its rows are pairs of replies (chosen, rejected), for the reward stage. To train on the chosen ones, "
        f"map them: datasets: [{{path: {label}, columns: {{{as_yaml(columns)}}}}}]"
    )


def as_yaml(columns: dict[str, str]) -> str:
    """Return a mapping of columns as it is written in a YAML, without its braces."""
    texts = {name: expression.replace("\n", "\\n") for name, expression in columns.items()}
    return ", ".join(f'{name}: "{text}"' if "{" in text else f"{name}: {text}" for name, text in texts.items())


def describe(found: Format, columns: dict[str, str], extras: list[str]) -> str:
    """Return a line about a format: what becomes of its columns."""
    made = {"history": "earlier turns", SYSTEM: "a system turn"}
    parts = []
    for name, expression in {**columns, **{name: name for name in extras}}.items():
        names = " + ".join(expression_columns(expression))
        parts.append(name if name == names and name not in made else f"{names} -> {made.get(name, name)}")
    parts += [f"rows whose {test.column} is {str(test.equals).lower()}" for test in found.keep]
    return f"{found.name} format: {', '.join(parts)}"
