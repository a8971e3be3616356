"""hfkit data preview configs/quickstart/pipeline.yaml -n 3

Rows as the model sees them: rendered by the stage's own tokenizer and template, with the special tokens, cut where they
are cut. What is trained is in green, or between [[ and ]] where there are no colours. For a stage's YAML or a
pipeline's, with the same flags. `--lost` shows the rows that are dropped, cut or faulty in place of the first ones.
"""

from argparse import Namespace
from itertools import groupby

from rich.console import Console
from rich.text import Text

from hfkit.commands.data.check import stages_to_check
from hfkit.commands.data.survey import SPLITS, encoder_of, load_entry, columns_to_read
from hfkit.core.console import printable
from hfkit.data.chat_template import encode_prompt
from hfkit.data.conversions import prompt_of
from hfkit.data.forms import IGNORE
from hfkit.data.messages import RenderError, tools_of

SHOWN_CHARACTERS = 2_000  # characters of a row that is dropped


def main(given: Namespace) -> int:
    """Run `hfkit data preview`."""
    console = Console(no_color=given.no_color or None, soft_wrap=True)
    marks = console.no_color or not console.is_terminal
    for stage, config, tokenizer in stages_to_check(given):
        key = next(key for key, split in SPLITS.items() if split == given.split)
        for entry in getattr(config, key, []):
            reads, needed = columns_to_read(config, given.split)
            rows = load_entry(entry, reads, needed, config.seed)
            encoder, _ = encoder_of(config, given.split, rows, tokenizer)
            left = given.n
            for place, row in enumerate(rows):
                if left <= 0:
                    break
                made = encoder.function(row)
                is_lost = bool(made["dropped"] or made["faults"] or made["cut"])
                if given.lost == is_lost or (not given.lost and not made["dropped"]):
                    left -= 1
                    unit = "bytes" if tokenizer is None else "tokens"
                    console.print(heading(f"{stage} {given.split}: {entry.card or entry.path}", place, made, unit))
                    for part in parts_of(row, made, tokenizer):
                        console.print(highlight(*part, tokenizer, marks))
    return 0


def heading(source: str, place: int, made: dict, unit: str):
    """Where a row is from and what becomes of it."""
    said = [f"{source}, row {place}: {made['length']:,} {unit}"]
    said += [f"dropped: {made['dropped']}"] if made["dropped"] else []
    said += ["cut"] if made["cut"] else []
    said += [made["faults"]] if made["faults"] else []
    return Text(printable(f"\n== {', '.join(said)}"), style="bold")


def parts_of(row: dict, made: dict, tokenizer) -> list[tuple[str, list[int], list[bool]]]:
    """The sequences of a row: what each is, its token ids, and which of them are trained (or scored, as replies)."""
    if made["dropped"] or tokenizer is None:
        return [(str(row)[:SHOWN_CHARACTERS], [], [])]
    if "labels" in made:
        return [("", made["input_ids"], [label != IGNORE for label in made["labels"]])]
    if "chosen_ids" in made:
        pair = {"chosen": made["chosen_ids"], "rejected": made["rejected_ids"]}
        start = reply_start(row, [*pair.values()], tokenizer)
        return [(f"{name}: ", ids, after(start, ids)) for name, ids in pair.items()]
    if "reply_ids" in made:
        replies = made["reply_ids"]
        beaten = [sum(other == place for other in made["better"]) for place in range(len(replies))]
        order = sorted(range(len(replies)), key=lambda place: -beaten[place])
        start = reply_start(row, replies, tokenizer)
        return [(f"better than {beaten[place]}: ", replies[place], after(start, replies[place])) for place in order]
    is_text = "prompt" not in made
    return [("", made["input_ids"], [is_text] * len(made["input_ids"]))]


def after(start: int, ids: list[int]) -> list[bool]:
    """Which tokens are at `start` or later."""
    return [place >= start for place in range(len(ids))]


def reply_start(row: dict, sequences: list[list[int]], tokenizer) -> int:
    """Where the replies begin: after the prompt; at the start, if that cannot be told from the rest."""
    try:
        head = encode_prompt(tokenizer, prompt_of(row), tools_of(row.get("tools")))
    except RenderError:
        head = []
    return len(head) if all(ids[: len(head)] == head for ids in sequences) else 0


def highlight(label: str, ids: list[int], trained: list[bool], tokenizer, marks: bool):
    """A sequence as text, with what is trained in green or between marks; special tokens are dim."""
    text = Text(label)
    special = {*tokenizer.all_special_ids} if tokenizer is not None else set()
    for mine, run in groupby(zip(ids, trained, strict=True), key=lambda pair: pair[1]):
        run = [token for token, _ in run]
        text.append("[[" if mine and marks else "")
        for is_special, tokens in groupby(run, key=special.__contains__):
            style = f"{'green' if mine else ''} {'dim' if is_special else 'bold' if mine else ''}".strip()
            text.append(printable(tokenizer.decode([*tokens])), style=style)
        text.append("]]" if mine and marks else "")
    return text
