"""The command line of each verb, read without importing what the verb runs."""

import ast
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hfkit.config.evaluation import ArenaConfig, EvaluateConfig
from hfkit.config.fields import DTYPES
from hfkit.config.parsing import Check, parse
from hfkit.config.registry import STAGES

EVALUATIONS = {"evaluate": (EvaluateConfig, "model_name_or_path"), "arena": (ArenaConfig, "models")}
"""The config class of each, and the key that the words before the first flag stand for."""


def read_arguments(verb: str, module: str, argv: list[str]):
    """Return what the command line of a verb says, for the `main` of its module.

    Returns:
        the checked config where the verb has one, else argparse's Namespace; verbs that take the flags of stages have
        those in its `flags`.

    Raises:
        ConfigError: with everything that is wrong.
    """
    description = docstring_of(module)
    if verb in STAGES:
        return parse(STAGES[verb].config_class, argv, f"hfkit {verb}", description, checks_in("hfkit.stages.checks"))
    if verb in EVALUATIONS:
        config_class, key = EVALUATIONS[verb]
        argv = [f"--{key}", *argv] if argv and not argv[0].startswith("-") else argv
        return parse(config_class, argv, f"hfkit {verb}", description, checks_in("hfkit.evaluation.checks"))
    # flags are never completed from a prefix
    parser = ArgumentParser(
        f"hfkit {verb}", description=description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    PARSERS[verb](parser)
    if verb not in WITH_STAGE_FLAGS:
        return parser.parse_args(argv)
    given, flags = parser.parse_known_args(argv)
    return Namespace(**vars(given), flags=flags)


def checks_in(module: str) -> Check:
    """Return the `problems_of` of a module that is imported once there is a config to check."""
    return lambda config: import_module(module).problems_of(config)


def docstring_of(module: str) -> str:
    """Return the docstring of a module that is not imported; a verb's opens with its launch command."""
    return ast.get_docstring(ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))) or ""


def add_run(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit run`."""
    parser.add_argument("pipeline", help="the pipeline's YAML")
    parser.add_argument("--output_dir", help="in place of the YAML's")


def add_merge(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit merge`."""
    parser.add_argument("adapter", help="folder or Hub id of the adapter")
    parser.add_argument("out", help="folder for the merged model; not there yet, or empty")
    parser.add_argument(
        "--dtype", default="bfloat16", help=f"{', '.join(DTYPES)} (the base's own); default: %(default)s"
    )
    parser.add_argument("--base", help="where the base lies now, if not where the adapter says")
    parser.add_argument("--eval_dataset", help="held-out rows to compare adapter and merged model on")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of an adapter on the Hub")


def add_push(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit push`."""
    parser.add_argument("folder", metavar="DIR", help="what a stage, a merge or save_pretrained wrote")
    add_repository(parser)
    parser.add_argument("--with_base", metavar="REPO_ID", help="push the adapter's base too, to there")
    parser.add_argument("--include", nargs="+", default=[], metavar="PATTERN", help="files that are else left out")


def add_data_push(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data push`."""
    parser.add_argument("source", metavar="CARD_OR_DIR", help="a folder with data files, or a data card")
    add_repository(parser)


def add_repository(parser: ArgumentParser) -> None:
    """Add the repository, who may read it, and what the commit has."""
    parser.add_argument("repo_id", metavar="REPO_ID", help="USER/NAME; or NAME, in your own namespace")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--private", action="store_true", default=None, help="you alone may read it; so is a new one")
    who.add_argument("--public", dest="private", action="store_false", default=None, help="anyone may read it")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch; default: %(default)s")
    parser.add_argument("--tag", help="a tag for the commit")
    parser.add_argument("--message", help="message of the commit")
    parser.add_argument("--dry_run", action="store_true", help="list files and sizes; nothing is sent or asked")


def add_pull(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit pull`."""
    parser.add_argument("repo", metavar="REPO_ID", help="USER/NAME, or USER/NAME@REVISION")
    parser.add_argument("out", metavar="DIR", help="folder for it; not there yet, or empty")
    parser.add_argument("--revision", default="main", help="branch, tag or commit; default: %(default)s")
    parser.add_argument("--base", metavar="REPO_ID", help="the adapter's base, if not what its config names")


def add_report(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit report`."""
    parser.add_argument("run_dir", help="folder of a pipeline or of a run")


def add_chat(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit chat`."""
    parser.add_argument("model", help="folder or Hub id of a model or an adapter")
    parser.add_argument("--against", metavar="MODEL", help="a second one, side by side")
    parser.add_argument("--adapter", nargs="+", metavar="ADAPTER", help="more adapters on the base of the first")
    parser.add_argument("--prompt", help="one message; its reply goes to stdout")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument(
        "--temperature", type=float, default=0.7, help="0 takes the likeliest token; default: %(default)s"
    )
    parser.add_argument("--length", type=int, default=256, help="most tokens of a reply; default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="of the sampling; default: %(default)s")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the weights; default: %(default)s")


def add_lineage(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit lineage`."""
    parser.add_argument("path", help="folder or Hub id of a run")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a run on the Hub")
    parser.add_argument("--json", action="store_true", help="the same as JSON, with whole hashes")


def add_plan(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit plan`."""
    add_config(parser)
    parser.add_argument("--memory", type=float, metavar="GB", help="memory to fit into, in place of this machine's")


def add_quickstart(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit quickstart`."""
    parser.add_argument("--output_dir", default="runs/quickstart", help="default: %(default)s")
    parser.add_argument("--configs", default="configs/quickstart", help="default: %(default)s")


def add_data_cards(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data cards`."""
    parser.add_argument("name", nargs="?", help="a card to read")


def add_data_check(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data check`."""
    add_config(parser)
    add_tokenizer(parser)
    for name, default, text in (
        ("max_faults", 0.01, "share of rows that may have one fault"),
        ("max_duplicates", 0.1, "share of rows that may be in a source before"),
        ("max_overlap", 0.0, "share of training rows that may ask what is held out"),
        ("max_longer", 0.75, "share of pairs whose better reply may be the longer one"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text} (default: {default})")


def add_data_preview(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data preview`."""
    add_config(parser)
    add_tokenizer(parser)
    parser.add_argument("-n", type=int, default=3, metavar="ROWS", help="rows of each source (default: 3)")
    parser.add_argument("--split", choices=("train", "test", "ptx"), default="train", help="default: train")
    parser.add_argument("--lost", action="store_true", help="rows that are dropped, cut or have faults")
    parser.add_argument("--no_color", action="store_true", help="[[ and ]] in place of colours")


def add_config(parser: ArgumentParser) -> None:
    """Add the YAML of a stage or a pipeline; what is not known besides are the stages' own flags."""
    parser.add_argument("config", help="a stage's YAML, or a pipeline's")
    parser.add_argument("--stage", help="the stage that the YAML is for, where its name and keys do not tell")
    parser.add_argument("--output_dir", help="in place of the YAML's")


def add_tokenizer(parser: ArgumentParser) -> None:
    """Add the tokenizer that stands in for one that an earlier stage has yet to make."""
    parser.add_argument("--tokenizer", help="folder or Hub id, where the stage's own is not made yet")


PARSERS = {
    "run": add_run,
    "merge": add_merge,
    "push": add_push,
    "pull": add_pull,
    "report": add_report,
    "chat": add_chat,
    "lineage": add_lineage,
    "plan": add_plan,
    "quickstart": add_quickstart,
    "data cards": add_data_cards,
    "data check": add_data_check,
    "data preview": add_data_preview,
    "data push": add_data_push,
}
WITH_STAGE_FLAGS = ("run", "plan", "quickstart", "data check", "data preview")
