"""hfkit data check configs/quickstart/pipeline.yaml

What a stage will make of its data, before any weight is loaded: the rows of each source through the stage's own
tokenizer and template; what is kept, dropped and cut, and why; lengths; end-of-text, begin-of-text, and whether the
trained tokens are the replies; duplicates, and rows that are held out and trained on. For a stage's YAML or a
pipeline's, with the same flags. The exit status is 1 where something is past its threshold.
"""

from hfkit.cli import verb_parser

THRESHOLDS = {
    "max_faults": (0.01, "share of rows that may have one fault"),
    "max_duplicates": (0.1, "share of rows that may be in a source before"),
    "max_overlap": (0.0, "share of training rows that may ask what is held out"),
    "max_longer": (0.75, "share of pairs whose better reply may be the longer one"),
}
BARS, WIDTH = 12, 30


def cli(argv: list[str] | None = None) -> int:
    """`hfkit data check`"""
    parser = config_parser("check", __doc__)
    for name, (default, text) in THRESHOLDS.items():
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text} (default: {default})")
    known, flags = parser.parse_known_args(argv)
    from hfkit.console import quiet_libraries, say, warn

    quiet_libraries()
    from rich.console import Console

    from hfkit.data.survey import overlap, surveys_of

    told = []
    for stage, config, tokenizer in stages_of(known, flags):
        surveys = []
        for one in surveys_of(config, tokenizer):
            surveys.append(one)
            say(f"\n{stage} {one.split}: {one.name}")
            for line in lines_of(one):
                say(f"  {line}")
            Console().print(histogram(one))
            told += [f"{stage} {one.split}: {one.name}: {fault}" for fault in past(one, stage, config, known)]
        rows = sum(one.rows for one in surveys if one.split != "test")
        found = overlap(config, surveys)
        if found:
            say(f"\n{stage}: {found:,} training rows ask what is held out; training leaves them out")
        if rows and found / rows > known.max_overlap:
            told.append(
                f"{stage}: {share(found, rows)} of the training rows ask it, max_overlap is {known.max_overlap:.1%}"
            )
    say("")
    for line in told:
        warn(line)
    say("past its threshold: " + str(len(told)) if told else "nothing is past its threshold")
    return 1 if told else 0


def config_parser(command: str, doc: str):
    """The parser of a command over a stage's YAML or a pipeline's; what it does not know are the stages' flags."""
    parser = verb_parser(f"data {command}", doc)
    parser.add_argument("config", help="a stage's YAML, or a pipeline's")
    parser.add_argument("--stage", help="the stage that the YAML is for, where its name and keys do not tell")
    parser.add_argument("--tokenizer", help="folder or Hub id, where the stage's own is not made yet")
    parser.add_argument("--output_dir", help="in place of the YAML's")
    return parser


def stages_of(known, flags: list[str]):
    """Each stage of the YAML with its config and its tokenizer (None of the stage that makes it).

    Raises:
        HfkitError: a tokenizer that an earlier stage has yet to make.
    """
    from pathlib import Path

    from hfkit.config_files import read_configs
    from hfkit.errors import HfkitError
    from hfkit.models import load_tokenizer

    configs = read_configs(known.config, known.stage, known.output_dir, flags)
    made = {config.output_dir for config in configs.values()}
    for stage, config in configs.items():
        if stage == "tokenizer" and not known.tokenizer:
            yield stage, config, None
            continue
        given = known.tokenizer or getattr(config, "tokenizer_name_or_path", None)
        path = given or getattr(config, "model_name_or_path", None)
        if path in made and not Path(path).is_dir():
            raise HfkitError(
                f"{stage}: its tokenizer is yet to be made, in {path}: run the stages before it, or name another "
                "with --tokenizer"
            )
        revision = "main" if given else config.model_revision
        pad, template = getattr(config, "pad_token", None), getattr(config, "chat_template", None)
        yield stage, config, load_tokenizer(path, revision, pad, template)


def share(part: int, whole: int) -> str:
    """As a percentage."""
    return f"{part / whole:.1%}" if whole else "0%"


def lines_of(one) -> list[str]:
    """What a survey found, for the terminal."""
    from hfkit.data import faults

    lines = [f"{one.rows:,} rows, {one.kept:,} kept, {one.tokens:,} {one.unit}"]
    if one.trained:
        lines[0] += f", {share(one.trained, one.tokens)} of them trained"
    lines += [f"{count:,} dropped ({share(count, one.rows)}): {why}" for why, count in one.dropped.items()]
    if one.cut:
        lost = share(one.cut_tokens, one.tokens + one.cut_tokens)
        lines.append(
            f"{one.cut:,} cut ({share(one.cut, one.rows)}): {one.cut_tokens:,} tokens ({lost}) past {one.limit}"
        )
    lines += [f"{count:,} ({share(count, one.kept)}) {fault}" for fault, count in one.faults.items()]
    good = {faults.NO_EOS: "end-of-text at the end", faults.TWO_BOS: "no second begin-of-text"}
    good |= {faults.MASK: "the trained tokens are the replies"}
    fine = [text for fault, text in good.items() if fault in one.looked_for and fault not in one.faults]
    if one.kept and fine:
        lines.append(f"in every row: {', '.join(fine)}")
    if one.duplicates:
        lines.append(f"{one.duplicates:,} ({share(one.duplicates, one.rows)}) are there before, word for word")
    if one.longer is not None:
        lines.append(f"the better reply is the longer one in {one.longer:.1%} of the pairs of different lengths")
    return lines


def histogram(one):
    """Rows by their lengths, as bars."""
    import numpy as np
    from rich.table import Table

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


def past(one, stage: str, config, thresholds) -> list[str]:
    """What is past its threshold in one source; prompts of PPO may be there as often as one likes."""
    told = []
    lost, allowed = one.rows - one.kept + one.cut, getattr(config, "max_dropped", 1.0)
    if lost > allowed * one.rows:
        told.append(f"{share(lost, one.rows)} of the rows are dropped or cut, max_dropped is {allowed:.1%}")
    if not one.kept:
        told.append("no row is left")
    for fault, count in one.faults.items():
        if count > thresholds.max_faults * one.kept:
            told.append(f"{share(count, one.kept)} of the rows are {fault}, max_faults is {thresholds.max_faults:.1%}")
    are_prompts = stage == "ppo" and one.split != "ptx"
    if one.duplicates > thresholds.max_duplicates * one.rows and not are_prompts:
        told.append(
            f"{share(one.duplicates, one.rows)} of the rows are there twice, max_duplicates is "
            f"{thresholds.max_duplicates:.1%}"
        )
    if one.longer is not None and one.longer > thresholds.max_longer:
        told.append(
            f"the better reply is the longer one in {one.longer:.1%}, max_longer is {thresholds.max_longer:.1%}"
        )
    return told
