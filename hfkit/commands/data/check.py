"""hfkit data check configs/quickstart/pipeline.yaml

What a stage will make of its data, before any weight is loaded: the rows of each source through the stage's own
tokenizer and template; what is kept, dropped and cut, and why; lengths; end-of-text, begin-of-text, and whether the
trained tokens are the replies; duplicates, and rows that are held out and trained on. For a stage's YAML or a
pipeline's, with the same flags. The exit status is 1 where something is past its threshold.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hfkit.commands.data.survey import count_overlap, surveys_of
from hfkit.core.console import say, warn
from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.models.loading import load_tokenizer
from hfkit.stages.resolve import read_configs

BARS, WIDTH = 12, 30


def main(given: Namespace) -> int:
    """Run `hfkit data check`."""
    told = []
    for stage, config, tokenizer in stages_to_check(given):
        surveys = []
        for one in surveys_of(config, tokenizer):
            surveys.append(one)
            say(f"\n{stage} {one.split}: {one.name}")
            for line in survey_lines(one):
                say(f"  {line}")
            Console().print(histogram(one))
            told += [
                f"{stage} {one.split}: {one.name}: {fault}" for fault in threshold_problems(one, stage, config, given)
            ]
        rows = sum(one.rows for one in surveys if one.split != "test")
        found = count_overlap(config, surveys)
        if found:
            say(f"\n{stage}: {found:,} training rows ask what is held out; training leaves them out")
        if rows and found / rows > given.max_overlap:
            told.append(
                f"{stage}: {percentage(found, rows)} of the training rows ask it, max_overlap is "
                f"{given.max_overlap:.1%}"
            )
    say("")
    for line in told:
        warn(line)
    say("past its threshold: " + str(len(told)) if told else "nothing is past its threshold")
    return 1 if told else 0


def stages_to_check(given: Namespace):
    """Each stage of the YAML with its config and its tokenizer (None of the stage that makes it).

    Raises:
        HfkitError: a tokenizer that an earlier stage has yet to make.
    """
    configs = read_configs(given.config, given.stage, given.output_dir, given.flags)
    made = {config.output_dir for config in configs.values()}
    for stage, config in configs.items():
        if stage == "tokenizer" and not given.tokenizer:
            yield stage, config, None
            continue
        named = given.tokenizer or getattr(config, "tokenizer_name_or_path", None)
        path = named or getattr(config, "model_name_or_path", None)
        if path in made and not Path(path).is_dir():
            raise HfkitError(
                f"{stage}: its tokenizer is yet to be made, in {path}: run the stages before it, or name another "
                "with --tokenizer"
            )
        revision = "main" if named else config.model_revision
        pad, template = getattr(config, "pad_token", None), getattr(config, "chat_template", None)
        yield stage, config, load_tokenizer(path, revision, pad, template)


def percentage(part: int, whole: int) -> str:
    """As a percentage."""
    return f"{part / whole:.1%}" if whole else "0%"


def survey_lines(one) -> list[str]:
    """What a survey found, for the terminal."""
    lines = [f"{one.rows:,} rows, {one.kept:,} kept, {one.tokens:,} {one.unit}"]
    if one.trained:
        lines[0] += f", {percentage(one.trained, one.tokens)} of them trained"
    lines += [f"{count:,} dropped ({percentage(count, one.rows)}): {why}" for why, count in one.dropped.items()]
    if one.cut:
        lost = percentage(one.cut_tokens, one.tokens + one.cut_tokens)
        lines.append(
            f"{one.cut:,} cut ({percentage(one.cut, one.rows)}): {one.cut_tokens:,} tokens ({lost}) past {one.limit}"
        )
    lines += [f"{count:,} ({percentage(count, one.kept)}) {fault}" for fault, count in one.faults.items()]
    good = {faults.NO_EOS: "end-of-text at the end", faults.TWO_BOS: "no second begin-of-text"}
    good |= {faults.MASK: "the trained tokens are the replies"}
    fine = [text for fault, text in good.items() if fault in one.looked_for and fault not in one.faults]
    if one.kept and fine:
        lines.append(f"in every row: {', '.join(fine)}")
    if one.duplicates:
        lines.append(f"{one.duplicates:,} ({percentage(one.duplicates, one.rows)}) are there before, word for word")
    if one.longer is not None:
        lines.append(f"the better reply is the longer one in {one.longer:.1%} of the pairs of different lengths")
    return lines


def histogram(one):
    """Rows by their lengths, as bars."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    for column in ("tokens", "bar", "rows"):
        table.add_column(column, justify="right" if column == "tokens" else "left", no_wrap=True)
    lengths = one.lengths[one.lengths > 0]
    if not len(lengths):
        return table
    longest = int(lengths.max())
    counts, edges = np.histogram(lengths, bins=min(BARS, longest), range=(0, longest))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        past = "  past the limit" if one.limit and low >= one.limit and count else ""
        bar = "█" * -(-WIDTH * int(count) // int(counts.max()))
        table.add_row(f"{int(np.ceil(low)):,} to {int(np.ceil(high)):,} {one.unit}", bar, f"{count:,}{past}")
    return table


def threshold_problems(one, stage: str, config, thresholds) -> list[str]:
    """What is past its threshold in one source; prompts of PPO may be there as often as one likes."""
    told = []
    lost, allowed = one.rows - one.kept + one.cut, getattr(config, "max_dropped", 1.0)
    if lost > allowed * one.rows:
        told.append(f"{percentage(lost, one.rows)} of the rows are dropped or cut, max_dropped is {allowed:.1%}")
    if not one.kept:
        told.append("no row is left")
    for fault, count in one.faults.items():
        if count > thresholds.max_faults * one.kept:
            told.append(
                f"{percentage(count, one.kept)} of the rows are {fault}, max_faults is {thresholds.max_faults:.1%}"
            )
    are_prompts = stage == "ppo" and one.split != "ptx"
    if one.duplicates > thresholds.max_duplicates * one.rows and not are_prompts:
        told.append(
            f"{percentage(one.duplicates, one.rows)} of the rows are there twice, max_duplicates is "
            f"{thresholds.max_duplicates:.1%}"
        )
    if one.longer is not None and one.longer > thresholds.max_longer:
        told.append(
            f"the better reply is the longer one in {one.longer:.1%}, max_longer is {thresholds.max_longer:.1%}"
        )
    return told
