"""The command line of each verb, parsed without importing the verb's module."""

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
"""Config class of each evaluation, and the key that positional arguments belong to."""


def read_arguments(verb: str, module: str, argv: list[str]):
    """Parse the command line of a verb, for the `main` of its module.

    Returns:
        the validated config of a stage or an evaluation; argparse's Namespace for other verbs, with the flags of
        stages in `flags` where the verb takes them.

    Raises:
        ConfigError: with all problems.
    """
    description = docstring_of(module)
    if verb in STAGES:
        return parse(STAGES[verb].config_class, argv, f"hfkit {verb}", description, checks_in("hfkit.stages.checks"))
    if verb in EVALUATIONS:
        config_class, key = EVALUATIONS[verb]
        argv = [f"--{key}", *argv] if argv and not argv[0].startswith("-") else argv
        return parse(config_class, argv, f"hfkit {verb}", description, checks_in("hfkit.evaluation.checks"))
    layout = {"formatter_class": RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = ArgumentParser(f"hfkit {verb}", description=description, **layout)
    PARSERS[verb](parser)
    if verb not in WITH_STAGE_FLAGS:
        return parser.parse_args(argv)
    given, flags = parser.parse_known_args(argv)
    return Namespace(**vars(given), flags=flags)


def checks_in(module: str) -> Check:
    """Return a check that imports a module only when there is a config, and calls its `problems_of`."""
    return lambda config: import_module(module).problems_of(config)


def docstring_of(module: str) -> str:
    """Return the docstring of a module without importing it; a verb's begins with its launch command."""
    return ast.get_docstring(ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))) or ""


def add_run(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit run`."""
    parser.add_argument("pipeline", help="YAML of the pipeline")
    parser.add_argument("--output_dir", help="folder of the runs; overrides the YAML's")


def add_merge(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit merge`."""
    parser.add_argument("adapter", help="folder or Hub id of the adapter")
    parser.add_argument("out", help="folder for the merged model, new or empty")
    dtypes = f"dtype of the weights: {', '.join(DTYPES)} (the base's); default: %(default)s"
    parser.add_argument("--dtype", default="bfloat16", help=dtypes)
    parser.add_argument("--base", help="where the base is, if not where the adapter says")
    parser.add_argument("--eval_dataset", help="held-out rows to compare adapter and merged model on")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of an adapter on the Hub")


def add_push(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit push`."""
    parser.add_argument("folder", metavar="DIR", help="folder that a stage, a merge or save_pretrained wrote")
    add_repository(parser)
    parser.add_argument("--with_base", metavar="REPO_ID", help="push the adapter's base too, to this repository")
    parser.add_argument("--include", nargs="+", default=[], metavar="PATTERN", help="also push these files")


def add_data_push(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data push`."""
    parser.add_argument("source", metavar="CARD_OR_DIR", help="a folder with data files, or a data card")
    add_repository(parser)


def add_repository(parser: ArgumentParser) -> None:
    """Add the repository, its visibility, and the properties of the commit."""
    parser.add_argument("repo_id", metavar="REPO_ID", help="USER/NAME, or NAME in your own namespace")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", default=None, help="private; the default of a new one")
    visibility.add_argument("--public", dest="private", action="store_false", default=None, help="public")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch; default: %(default)s")
    parser.add_argument("--tag", help="tag for the commit")
    parser.add_argument("--message", help="message of the commit")
    parser.add_argument("--dry_run", action="store_true", help="list files and sizes without contacting the Hub")


def add_pull(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit pull`."""
    parser.add_argument("repo", metavar="REPO_ID", help="USER/NAME, or USER/NAME@REVISION")
    parser.add_argument("out", metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--revision", default="main", help="branch, tag or commit; default: %(default)s")
    parser.add_argument("--base", metavar="REPO_ID", help="base of the adapter, if not the one that its config names")


def add_report(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit report`."""
    parser.add_argument("run_dir", help="folder of a pipeline or of a run")


def add_chat(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit chat`."""
    parser.add_argument("model", help="folder or Hub id of a model or an adapter")
    parser.add_argument("--against", metavar="MODEL", help="second model, shown side by side")
    parser.add_argument("--adapter", nargs="+", metavar="ADAPTER", help="more adapters of the first model's base")
    parser.add_argument("--prompt", help="print the reply to this message, and end")
    parser.add_argument("--system", help="system prompt")
    temperature = "of the sampling; 0 takes the likeliest token; default: %(default)s"
    parser.add_argument("--temperature", type=float, default=0.7, help=temperature)
    parser.add_argument("--length", type=int, default=256, help="most tokens of a reply; default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="of the sampling; default: %(default)s")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the weights; default: %(default)s")


def add_lineage(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit lineage`."""
    parser.add_argument("path", help="folder or Hub id of a run")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a run on the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON, with full hashes")


def add_plan(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit plan`."""
    add_config(parser)
    parser.add_argument("--memory", type=float, metavar="GB", help="memory to fit into; default: that of this machine")


def add_quickstart(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit quickstart`."""
    parser.add_argument("--output_dir", default="runs/quickstart", help="folder of the runs; default: %(default)s")
    parser.add_argument("--configs", default="configs/quickstart", help="folder of the YAMLs; default: %(default)s")


def add_data_cards(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data cards`."""
    parser.add_argument("name", nargs="?", help="card to print")


def add_data_check(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data check`."""
    add_config(parser)
    add_tokenizer(parser)
    for name, default, text in (
        ("max_faults", 0.01, "share of rows that may have the same fault"),
        ("max_duplicates", 0.1, "share of rows that may repeat an earlier row of their source"),
        ("max_overlap", 0.0, "share of training rows whose prompt may be held out"),
        ("max_longer", 0.75, "share of pairs whose better reply may be the longer one"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text}; default: {default}")


def add_data_preview(parser: ArgumentParser) -> None:
    """Add the arguments of `hfkit data preview`."""
    add_config(parser)
    add_tokenizer(parser)
    parser.add_argument("-n", type=int, default=3, metavar="ROWS", help="rows of each source; default: %(default)s")
    parser.add_argument("--split", choices=("train", "test", "ptx"), default="train", help="default: %(default)s")
    parser.add_argument("--lost", action="store_true", help="show rows that are dropped, cut or faulty")
    parser.add_argument("--no_color", action="store_true", help="mark tokens with [[ and ]] in place of colors")


def add_config(parser: ArgumentParser) -> None:
    """Add the YAML of a stage or a pipeline."""
    parser.add_argument("config", help="YAML of a stage or of a pipeline")
    parser.add_argument("--stage", help="stage of the YAML, if its name and keys do not show it")
    parser.add_argument("--output_dir", help="overrides the YAML's")


def add_tokenizer(parser: ArgumentParser) -> None:
    """Add a tokenizer to use where an earlier stage has not made the stage's own yet."""
    parser.add_argument("--tokenizer", help="folder or Hub id, to use until the stage's own tokenizer is made")


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
"""Verbs that also take the flags of stages."""
