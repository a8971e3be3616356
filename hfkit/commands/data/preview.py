"""hfkit data preview configs/quickstart/pipeline.yaml -n 3

Shows rows as the model sees them: rendered by the stage's own tokenizer and template, with special tokens, truncated.
Trained tokens are green, or between [[ and ]] without colors. Accepts the YAML of a stage or of a pipeline, with the
same flags. `--lost` shows rows that are dropped, truncated or faulty instead of the first rows.
"""

from argparse import Namespace
from itertools import groupby

from rich.text import Text

from hfkit.commands.data.check import stages_to_check
from hfkit.commands.data.survey import SPLITS, load_source, part_spans
from hfkit.core.console import printable, say
from hfkit.core.errors import HfkitError
from hfkit.core.tables import make_console
from hfkit.data.comparisons import mask_of
from hfkit.data.faults import split_faults
from hfkit.data.forms import IGNORE

SHOWN_CHARACTERS = 2_000  # of a dropped row


def main(given: Namespace) -> int:
    """Run `hfkit data preview`."""
    console = make_console(no_color=given.no_color or None, soft_wrap=True)
    marks = console.no_color or not console.is_terminal
    key = next(key for key, split in SPLITS.items() if split == given.split)
    entries, shown, dropped = 0, 0, ""
    for stage, config, tokenizer in stages_to_check(given):
        for entry in getattr(config, key, []):
            entries += 1
            source, encoder, _ = load_source(stage, config, given.split, entry, tokenizer)
            left, label = given.n, f"{stage} {given.split}: {source.label}"
            if source.format:
                say(f"{label}: {source.format}")
            for index, row in enumerate(source.rows):
                if left <= 0:
                    break
                encoded = encoder.function(row)
                dropped = dropped or encoded["dropped"]
                is_lost = bool(encoded["dropped"] or encoded["faults"] or encoded["cut"])
                if given.lost == is_lost or (not given.lost and not encoded["dropped"]):
                    left, shown = left - 1, shown + 1
                    unit = "bytes" if tokenizer is None else "tokens"
                    console.print(heading(label, index, encoded, unit))
                    for part in parts_of(row, encoded, tokenizer):
                        console.print(highlight(*part, tokenizer, marks))
    if not entries:
        raise HfkitError(f"{given.config or 'the configuration'} sets no {key}, which --split {given.split} needs")
    if not shown:
        remedy = f": {dropped} (--lost shows them, `hfkit data check` counts them)" if dropped else ""
        say("no rows are dropped, truncated or faulty" if given.lost else f"no rows are kept{remedy}")
    return 0


def heading(source: str, index: int, encoded: dict, unit: str) -> Text:
    """Return the source, index and length of a row, and its losses and faults."""
    dropped = encoded["dropped"] and f"dropped: {encoded['dropped']}"
    losses = [dropped, "cut" if encoded["cut"] else "", *(one.value for one in split_faults(encoded["faults"]))]
    parts = [f"{source}, row {index}: {encoded['length']:,} {unit}", *filter(None, losses)]
    return Text(printable(f"\n== {', '.join(parts)}"), style="bold")


def parts_of(row: dict, encoded: dict, tokenizer) -> list[tuple[str, list[int], list[bool]]]:
    """Return the sequences of a row: a label, token ids, and which of them are trained (or scored, as responses)."""
    if encoded["dropped"] or tokenizer is None:
        return [(str(row)[:SHOWN_CHARACTERS], [], [])]
    if "labels" in encoded:
        ids, labels = encoded["input_ids"], encoded["labels"]
        return [("", ids[span], [label != IGNORE for label in labels[span]]) for span in part_spans(encoded)]
    if "input_ids" in encoded:
        is_text = "prompt" not in encoded
        return [("", encoded["input_ids"], [is_text] * len(encoded["input_ids"]))]
    if "chosen_ids" in encoded:
        replies = [("chosen: ", encoded["chosen_ids"]), ("rejected: ", encoded["rejected_ids"])]
        order = [0, 1]
    else:
        wins = [encoded["better"].count(index) for index in range(len(encoded["reply_ids"]))]
        replies = [(f"better than {count}: ", ids) for count, ids in zip(wins, encoded["reply_ids"], strict=True)]
        order = sorted(range(len(wins)), key=lambda index: -wins[index])
    return [(*replies[index], mask_of(encoded["spans"][index], len(replies[index][1]))) for index in order]


def highlight(label: str, ids: list[int], trained: list[bool], tokenizer, marks: bool):
    """Return a sequence as text, with trained tokens in green or between marks, and special tokens dim."""
    text = Text(label)
    special = {*tokenizer.all_special_ids} if tokenizer is not None else set()
    for is_trained, run in groupby(zip(ids, trained, strict=True), key=lambda pair: pair[1]):
        text.append("[[" if is_trained and marks else "")
        for is_special, tokens in groupby((token for token, _ in run), key=lambda token: token in special):
            style = f"{'green' if is_trained else ''} {'dim' if is_special else 'bold' if is_trained else ''}".strip()
            text.append(printable(tokenizer.decode([*tokens])), style=style)
        text.append("]]" if is_trained and marks else "")
    return text
