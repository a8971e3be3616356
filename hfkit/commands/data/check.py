"""hfkit data check configs/quickstart/pipeline.yaml

Checks a stage's data before any weights are loaded, with the stage's own tokenizer and template. Reports which rows are
kept, dropped and truncated, and why; lengths; end-of-text and begin-of-text tokens; whether the trained tokens are the
responses; duplicates; and held-out rows that are also trained on. Accepts the YAML of a stage or of a pipeline, with
the same flags. The exit status is 1 if a threshold is exceeded.
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.table import Column, Table
from transformers import PreTrainedTokenizerBase

from hfkit.commands.data.survey import Survey, count_overlap, surveys_of
from hfkit.config.registry import STAGES
from hfkit.core.console import say, warn
from hfkit.core.errors import HfkitError
from hfkit.core.tables import make_console
from hfkit.data.faults import Fault
from hfkit.data.forms import FORMS
from hfkit.data.splits import MANY_CUT, cut_warning
from hfkit.models.tokenizers import load_tokenizer
from hfkit.stages.read_configs import read_configs

BARS, BAR_WIDTH = 12, 30
TEXTS_WITHOUT_FAULT = {
    Fault.NO_EOS: "end-of-text at the end",
    Fault.TWO_BOS: "no second begin-of-text",
}
"""The statement about all rows if none has the fault."""
REMEDY_BY_KEY = {
    "max_dropped": "See the rows with `hfkit data preview --lost`, and fix them or raise the limit of their length",
    "max_faults": "See the rows with `hfkit data preview --lost` and fix them",
    "max_duplicates": "Remove rows that repeat others",
    "max_overlap": "Remove these prompts from datasets, or from eval_datasets",
    "max_longer": "Add pairs whose shorter response is better, since a reward model may learn length alone",
}
"""What to do about an exceeded threshold."""


def main(given: Namespace) -> int:
    """Run `hfkit data check`."""
    problems = []
    for stage, config, tokenizer in stages_to_check(given):
        surveys = []
        for survey in surveys_of(stage, config, tokenizer):
            surveys.append(survey)
            label = f"{stage} {survey.split}: {survey.name}"
            say("\n  ".join([f"\n{label}", *survey_lines(survey)]))
            make_console().print(histogram(survey))
            problems += [f"{label}: {problem}" for problem in threshold_problems(survey, config, given)]
            if survey.cut > MANY_CUT * survey.kept:
                key = "ptx_max_length" if survey.split == "ptx" else "max_length"
                warn(f"{label}: {cut_warning(survey.cut, survey.kept, survey.cut_tokens, key)}")
        rows = sum(survey.rows for survey in surveys if survey.split != "test")
        shared = count_overlap(config, surveys)
        if shared:
            say(f"\n{stage}: {shared:,} training rows have held-out prompts; training skips them")
        if rows and shared / rows > given.max_overlap:
            what = f"{percentage(shared, rows)} of the training rows have held-out prompts"
            problems.append(f"{stage}: {what}, {threshold_text('max_overlap', given.max_overlap)}")
    say("")
    for problem in problems:
        warn(problem)
    say(f"thresholds exceeded: {len(problems)}" if problems else "no threshold exceeded")
    return 1 if problems else 0


def stages_to_check(given: Namespace) -> Iterator[tuple[str, object, PreTrainedTokenizerBase | None]]:
    """Yield each stage of the YAML with its config and its tokenizer (None for a stage that makes one).

    Raises:
        HfkitError: an earlier stage has not made the tokenizer yet.
    """
    configs = read_configs(given.config, given.stage, given.output_dir, given.flags)
    made = {config.output_dir for config in configs.values()}
    for stage, config in configs.items():
        if STAGES[stage].makes == "tokenizer" and not given.tokenizer:
            yield stage, config, None
            continue
        named = given.tokenizer or getattr(config, "tokenizer_name_or_path", None)
        path = named or getattr(config, "model_name_or_path", None)
        if path in made and not Path(path).is_dir():
            raise HfkitError(
                f"{stage}: its tokenizer {path} does not exist yet: run the earlier stages, or set --tokenizer"
            )
        revision = "main" if named else config.model_revision
        names = ("pad_token", "chat_template", "chat_template_kwargs", "system_prompt")
        options = [getattr(config, name, None) for name in names]
        yield stage, config, load_tokenizer(path, revision, *options)


def percentage(part: int, whole: int) -> str:
    """Return a share as a percentage."""
    return f"{part / whole:.1%}" if whole else "0%"


def survey_lines(survey: Survey) -> list[str]:
    """Return the lines of a survey for the terminal."""
    lines = [f"{survey.rows:,} rows, {survey.kept:,} kept, {survey.tokens:,} {survey.unit}"]
    if survey.trained:
        lines[0] += f", {percentage(survey.trained, survey.tokens)} of them trained"
    lines += survey.notes
    lines += [f"{n:,} dropped ({percentage(n, survey.rows)}): {reason}" for reason, n in survey.dropped.items()]
    if survey.cut:
        cut, tokens = percentage(survey.cut, survey.rows), survey.cut_tokens
        share = percentage(tokens, survey.tokens + tokens)
        lines.append(f"{survey.cut:,} truncated ({cut}): {tokens:,} tokens ({share}) past {survey.limit}")
    lines += [f"{count:,} ({percentage(count, survey.kept)}) {fault.value}" for fault, count in survey.faults.items()]
    fine = [TEXTS_WITHOUT_FAULT[fault] for fault in FORMS[survey.form].faults if fault not in survey.faults]
    if survey.trained:
        is_text = survey.trained == survey.tokens  # plain text
        fine.append("all tokens are trained" if is_text else "the trained tokens are the responses")
    if survey.kept and fine:
        lines.append(f"in every row: {', '.join(fine)}")
    if survey.duplicates:
        lines.append(f"{survey.duplicates:,} duplicates ({percentage(survey.duplicates, survey.rows)})")
    if survey.longer is not None:
        lines.append(
            f"the better response is the longer one in {survey.longer:.1%} of the pairs with different lengths"
        )
    return lines


def histogram(survey: Survey) -> Table:
    """Return a histogram of the lengths of rows; it begins at the bucket of the shortest one."""
    columns = [Column(justify="right", no_wrap=True), Column(no_wrap=True), Column(no_wrap=True)]
    table = Table(*columns, box=None, show_header=False, padding=(0, 1, 0, 2))
    lengths = survey.lengths[survey.lengths > 0]
    if not len(lengths):
        return table
    longest = int(lengths.max())
    counts, edges = np.histogram(lengths, bins=min(BARS, longest), range=(0, longest))
    if int(lengths.min()) == longest:
        table.add_row(
            f"{longest:,} {survey.unit}", "█" * BAR_WIDTH, f"{len(lengths):,}{past_limit(survey, longest - 1)}"
        )
        return table
    first = int(np.flatnonzero(counts)[0])
    for count, low, high in zip(counts[first:], edges[first:-1], edges[first + 1 :], strict=True):
        past = past_limit(survey, low) if count else ""
        bar = "█" * -(-BAR_WIDTH * int(count) // int(counts.max()))
        table.add_row(f"{int(np.ceil(low)):,} to {int(np.ceil(high)):,} {survey.unit}", bar, f"{count:,}{past}")
    return table


def past_limit(survey: Survey, low: float) -> str:
    """Return the note of rows that are longer than `low`, if all of them are past the limit; else ""."""
    return "  past the limit" if survey.limit and low >= survey.limit else ""


def threshold_problems(survey: Survey, config, thresholds: Namespace) -> list[str]:
    """Return the exceeded thresholds of one source; prompts alone may be duplicates."""
    lost, max_dropped = survey.rows - survey.kept, getattr(config, "max_dropped", 1.0)
    shares = [("dropped", lost, survey.rows, "max_dropped", max_dropped)]
    for fault, count in survey.faults.items():
        shares.append((fault.value, count, survey.kept, "max_faults", thresholds.max_faults))
    if survey.form != "prompts":
        shares.append(("duplicates", survey.duplicates, survey.rows, "max_duplicates", thresholds.max_duplicates))
    problems = [] if survey.kept else ["no rows are left: see them with `hfkit data preview --lost`"]
    for description, count, rows, key, limit in shares:
        if count > limit * rows:
            problems.append(f"{percentage(count, rows)} of the rows are {description}, {threshold_text(key, limit)}")
    if survey.longer is not None and survey.longer > thresholds.max_longer:
        share = f"the better response is the longer one in {survey.longer:.1%} of the pairs"
        problems.append(f"{share}, {threshold_text('max_longer', thresholds.max_longer)}")
    return problems


def threshold_text(key: str, limit: float) -> str:
    """Return the end of a message about an exceeded threshold: its value, and what to do."""
    return f"above {key}: {limit:.1%}. {REMEDY_BY_KEY[key]}, or raise {key}"
