"""Common formats of datasets, each recognized by its columns and their values.

To add a format, add it to `FORMATS`, with the keys of a data card: a form, `columns`, `convert` and `keep`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from datasets import Dataset, Value

from hfkit.core.errors import HfkitError
from hfkit.data.cards import Keep
from hfkit.data.columns import ANSWERS, QUESTIONS, TURNS, can_read
from hfkit.data.conversations import find_roles, is_conversation, iter_roles
from hfkit.data.conversions import expression_columns
from hfkit.data.function_calls import CALL_ROLE, RESULT_ROLES
from hfkit.data.message_texts import TEXTS, parse_messages
from hfkit.data.messages import usual_role

Predicate = Callable[[Dataset, str], bool]


@dataclass(frozen=True)
class Format:
    """A common format.

    Attributes:
        name: its usual name.
        form, columns, convert, keep: as in a data card. A source of this format has all of the columns.
        holds: column of the dataset -> predicate for its values. Other renamed columns must hold text.
        lacks: columns that a source of this format must not have.
    """

    name: str
    form: str
    columns: dict[str, str]
    holds: dict[str, Predicate] = field(default_factory=dict)
    lacks: Sequence[str] = ()
    convert: Sequence[str] = ()
    keep: Sequence[Keep] = ()


def holds_conversations(rows: Dataset, column: str) -> bool:
    """Return whether a column holds conversations, or JSON texts of them."""
    if rows.features[column] in TEXTS:
        return parse_messages(first_value(rows, column) or "") is not None
    return is_conversation(rows.features[column])


def has_sharegpt_turns(rows: Dataset, column: str) -> bool:
    """Return whether a column holds conversations whose turns have `from` and `value`."""
    first = first_value(rows, column)
    first = first[0] if isinstance(first, list) and first else first
    return is_conversation(rows.features[column]) and isinstance(first, dict) and bool(first.get("from"))


def has_calls(rows: Dataset, column: str) -> bool:
    """Return whether a column holds ShareGPT's turns with function calls or their results."""
    return has_sharegpt_turns(rows, column) and bool({CALL_ROLE, *RESULT_ROLES} & {*find_roles(rows, column, False)})


def has_function_messages(rows: Dataset, column: str) -> bool:
    """Return whether a column holds OpenAI's messages with the role function, which preceded tool_calls."""
    return is_conversation(rows.features[column]) and "function" in find_roles(rows, column, False)


def ends_open(rows: Dataset, column: str) -> bool:
    """Return whether a column holds conversations that end with a question."""
    roles = [*iter_roles(first_value(rows, column))]
    return bool(roles) and usual_role(roles[-1]) != "assistant"


def has_replies(rows: Dataset, column: str) -> bool:
    """Return whether a column holds only responses, not conversations that begin with their prompt."""
    first = first_value(rows, column)
    roles = [*iter_roles([first] if isinstance(first, dict) else first)]
    return not roles or usual_role(roles[0]) not in ("system", "user")


def has_labels(rows: Dataset, column: str) -> bool:
    """Return whether a column holds booleans, or 1 and 0.

    Raises:
        ValueError: it holds them as text.
    """
    kind = rows.features[column]
    if kind in TEXTS and {str(value).lower() for value in rows.unique(column)} <= {"true", "false"}:
        raise ValueError(f"the column {column!r} holds text: write true and false without quotes (CSV: True and False)")
    return kind == Value("bool") or (kind == Value("int64") and {*rows.unique(column)} <= {0, 1})


def has_anything(rows: Dataset, column: str) -> bool:
    """Return True: the values are checked later."""
    return True


def both(*predicates: Predicate) -> Predicate:
    """Return a predicate that is true if all of the given ones are."""
    return lambda rows, column: all(predicate(rows, column) for predicate in predicates)


def first_value(rows: Dataset, column: str) -> object:
    """Return the first non-empty value of a column, or None."""
    return next((row[column] for row in rows.select_columns([column]) if row[column]), None)


ALPACA_PROMPTS = ("{instruction}\n\n{input}", "{instruction}\n\n{context}", "instruction")
HISTORY = ({"history": "history"}, {})
PAIR = {"chosen": "chosen", "rejected": "rejected"}
REPLIES_ALONE = dict.fromkeys(PAIR, has_replies)
COMPLETION = {"prompt": "prompt", "completion": "completion"}
RATED = {"prompt": "prompt", "replies": "completion", "scores": "label"}
LABELS = {"label": has_labels, "completion": has_anything}
GOOD = [Keep(column="label", equals=True)]
CONVERSATIONS = (
    ("sharegpt", has_calls, ["function_calls"]),
    ("sharegpt", has_sharegpt_turns, []),
    ("messages", has_function_messages, ["function_calls"]),
    ("messages", holds_conversations, []),
)

FORMATS = [
    Format("kto", "prompt_response", COMPLETION, LABELS, keep=GOOD),
    Format("kto", "ranking", RATED, LABELS, convert=["group_by_prompt", "drop_ties"]),
    Format("prompts", "prompts", {"prompt": "prompt"}),
    Format("rankings", "ranking", {"prompt": "prompt", "replies": "replies"}),
    Format("pairs", "preference", {"prompt": "prompt", **PAIR}),
    *(
        Format(
            f"{name} pairs",
            "preference",
            {"prompt": column, **PAIR},
            {column: both(holds, ends_open), **REPLIES_ALONE},
            convert=convert,
        )
        for column in TURNS
        for name, holds, convert in CONVERSATIONS
    ),
    *(
        Format("kto", "messages", {"messages": column}, {column: holds, "label": has_labels}, [*PAIR], convert, GOOD)
        for column in TURNS
        for _, holds, convert in CONVERSATIONS
    ),
    *(
        Format(name, "messages", {"messages": column}, {column: holds}, [*PAIR] * (column != "messages"), convert)
        for column in TURNS
        for name, holds, convert in CONVERSATIONS
    ),
    Format("messages", "messages", {"messages": "messages"}),
    Format("prompt and response", "prompt_response", {"prompt": "prompt", "response": "response"}),
    Format("prompt and completion", "prompt_response", COMPLETION),
    *(
        Format("alpaca pairs", "preference", {"prompt": prompt, **PAIR, **more}, REPLIES_ALONE, convert=[*more])
        for prompt in ALPACA_PROMPTS
        for more in HISTORY
    ),
    *(
        Format("alpaca", "prompt_response", {"prompt": prompt, "response": reply, **more}, convert=[*more])
        for prompt in ALPACA_PROMPTS
        for reply in ("output", "response")
        for more in HISTORY
    ),
    *(Format("pairs", "preference", {"prompt": name, **PAIR}, REPLIES_ALONE) for name in QUESTIONS),
    Format("pairs", "preference", PAIR),
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
    *(Format("prompts", "prompts", {"prompt": prompt}) for prompt in (*ALPACA_PROMPTS[:2], *QUESTIONS)),
]
"""The formats; the first one that a stage can read and that a source has is used."""


def matching_format(rows: Dataset, wanted: list[str], label: str) -> Format | None:
    """Return the first format that a stage can read and that a source has, or None.

    Raises:
        HfkitError: a column of the format holds invalid values.
    """
    try:
        return next((one for one in FORMATS if can_read(wanted, one.form) and is_of(one, rows)), None)
    except ValueError as error:
        raise HfkitError(f"{label}: {error}") from error


def is_of(one: Format, rows: Dataset) -> bool:
    """Return whether a source has the columns of a format with matching values."""
    read = {name for expression in one.columns.values() for name in expression_columns(expression)}
    if not {*read, *one.holds} <= {*rows.column_names} or {*one.lacks} & {*rows.column_names}:
        return False
    texts = read - {*one.holds} - {name for name, expression in one.columns.items() if name == expression}
    return all(isinstance(rows.features[name], Value) for name in texts) and all(
        holds(rows, name) for name, holds in one.holds.items()
    )
