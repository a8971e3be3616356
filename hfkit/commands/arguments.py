"""The command line of each verb, parsed without importing the verb's module."""

import ast
import os
import re
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from importlib.util import find_spec
from pathlib import Path

from hfkit.commands.config_checks import checks_in, evaluation_checks
from hfkit.commands.hinting_parser import HintingParser
from hfkit.commands.number_arguments import number_of_gigabytes, within
from hfkit.config.evaluation import ArenaConfig, BenchConfig, EvaluateConfig, SampleConfig
from hfkit.config.fields import DTYPES
from hfkit.config.labeling import LabelConfig
from hfkit.config.parsing import parse
from hfkit.config.registry import STAGES
from hfkit.core.console import announce_libraries
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.home import expand_home
from hfkit.core.names import NOT_UTF8, is_utf8, require_working_folder
from hfkit.core.shipped import shipped_folder

EVALUATIONS = {
    "evaluate": (EvaluateConfig, "model_name_or_path"),
    "arena": (ArenaConfig, "models"),
    "sample": (SampleConfig, "models"),
    "label": (LabelConfig, "datasets"),
    "bench": (BenchConfig, "models"),
}
"""Config class of each evaluation, and the key that positional arguments belong to."""
SHORT_FLAGS = {"sample": {"-k": "--num_samples"}}
"""Short names of keys, by verb."""


def read_arguments(verb: str, module: str, argv: list[str]):
    """Parse the command line of a verb, for the `main` of its module.

    Returns:
        the validated config of a stage or an evaluation; argparse's Namespace for other verbs, with the flags of
        stages in `flags` where the verb takes them.

    Raises:
        ConfigError: with all problems.
    """
    require_working_folder()
    require_one_process(verb)
    if unreadable := [word for word in argv if not is_utf8(word)]:
        raise ConfigError([Problem("argument", word, NOT_UTF8) for word in unreadable], "the command line")
    description = docstring_of(module)
    first = argv[0] if argv and not argv[0].startswith("-") else ""
    if first and (verb in STAGES or (verb in EVALUATIONS and first.endswith((".yaml", ".yml")))):
        argv = [f"--config={first}", *argv[1:]]
    if verb in STAGES:
        if not {"-h", "--help"} & {*argv}:
            announce_libraries(verb)
        return parse(
            STAGES[verb].config_class, argv, f"hfkit {verb}", description, checks_in("hfkit.stages.checks.stage")
        )
    if verb in EVALUATIONS:
        config_class, key = EVALUATIONS[verb]
        argv = [f"--{key}", *argv] if argv and not argv[0].startswith("-") else argv
        argv = [SHORT_FLAGS.get(verb, {}).get(word, word) for word in argv]
        return parse(config_class, argv, f"hfkit {verb}", description, evaluation_checks(verb))
    return parse_namespace(verb, argv, description)


def parse_namespace(verb: str, argv: list[str], description: str) -> Namespace:
    """Parse the command line of a verb that fills no config class, as `read_arguments` returns it."""
    layout = {"formatter_class": RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = HintingParser(f"hfkit {verb}", description=description, **layout)
    add_arguments(parser, ARGUMENTS[verb])
    argv, flags = split_stage_flags(ARGUMENTS[verb], argv) if verb in WITH_STAGE_FLAGS else (argv, None)
    given = parser.parse_args(argv)
    if verb in MODEL_ARGUMENTS and given.revision != "main" and os.path.isdir(getattr(given, MODEL_ARGUMENTS[verb])):
        parser.error(f"--revision: {given.revision!r} has no effect on a folder: leave it out")
    values = {name: value if name in TEXT_ARGUMENTS else expand_home(value) for name, value in vars(given).items()}
    return Namespace(**values, **({} if flags is None else {"flags": flags}))


def require_one_process(verb: str) -> None:
    """Raise ConfigError if a verb that trains nothing is launched in several processes: each would do all the work."""
    processes = os.environ.get("WORLD_SIZE", "1") if "LOCAL_RANK" in os.environ else "1"
    if verb not in (*STAGES, "run") and processes != "1":
        remedy = f"hfkit {verb} runs in one process: start it without the launcher"
        raise ConfigError([Problem("WORLD_SIZE", processes, remedy)], "the launch")


def split_stage_flags(arguments: list[tuple], argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the words that are a verb's own arguments, and the flags of stages with their values."""
    known = {"-h", "--help", *(name for names, _, _ in arguments for name in names)}
    own, others = [], []
    words = own
    for word in argv:
        if re.match(r"-[a-zA-Z-]", word):
            words = own if {word.partition("=")[0], word[:2]} & known else others  # -n3 is -n 3
        words.append(word)
    return own, others


def docstring_of(module: str) -> str:
    """Return the docstring of a module without importing it; a verb's begins with its launch command."""
    return ast.get_docstring(ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))) or ""


def argument(*names: str, exclusive: bool = False, **options) -> tuple[tuple[str, ...], bool, dict]:
    """Return an argument for `ARGUMENTS`, with the options of `add_argument`; exclusive ones exclude each other."""
    return names, exclusive, options


def add_arguments(parser: ArgumentParser, arguments: list[tuple]) -> None:
    """Add the arguments of a verb to its parser."""
    group = None
    for names, exclusive, options in arguments:
        if exclusive and group is None:
            group = parser.add_mutually_exclusive_group()
        (group if exclusive else parser).add_argument(*names, **options)


GOALS = [name for name, spec in STAGES.items() if spec.starts_from_a_model]
CONFIG_ARGUMENTS = [
    argument("config", nargs="?", help="YAML of a stage or of a pipeline; with --stage, flags alone are enough"),
    argument("--stage", help="stage of the YAML, if its name and keys do not show it"),
    argument("--output_dir", help="overrides the YAML's"),
]
MEMORY_ARGUMENTS = [
    argument(
        "--memory",
        exclusive=True,
        type=number_of_gigabytes,
        metavar="GB",
        help="memory of this GPU or machine that a plan may use; default: all of it",
    ),
    argument("--gpu", exclusive=True, type=number_of_gigabytes, metavar="GB", help="memory of a GPU to plan for"),
]
TOKENIZER_ARGUMENT = argument("--tokenizer", help="folder or Hub id, used until the stage's own tokenizer exists")
BASE_ARGUMENT = argument("--base", help="where the base is, if not where the adapter says")
CHAT_ARGUMENTS = [
    argument("--system_prompt", "--system", dest="system", help="default: that of training"),
    argument("--chat_template", metavar="FILE", help="Jinja file or name of a template; default: that of training"),
    argument(
        "--chat_template_kwargs",
        metavar="JSON",
        help="variables of the chat template: '{\"enable_thinking\": false}'; default: those of training",
    ),
    argument("--dtype", choices=DTYPES, help="of the weights; default: bfloat16 on a GPU with bf16, else float32"),
]
REPOSITORY_ARGUMENTS = [
    argument("repo_id", metavar="REPO_ID", help="USER/NAME, or NAME in your own namespace"),
    argument(
        "--private",
        exclusive=True,
        action="store_true",
        default=None,
        help="private repository; the default for a new one",
    ),
    argument("--public", exclusive=True, dest="private", action="store_false", default=None, help="public"),
    argument("--revision", default="main", metavar="BRANCH", help="branch; default: %(default)s"),
    argument("--tag", help="tag for the commit"),
    argument("--message", help="message of the commit"),
    argument("--dry_run", action="store_true", help="list files and sizes without contacting the Hub"),
]
ARGUMENTS = {
    "init": [
        argument("--model", help="folder or Hub id of the model to start from"),
        argument("--data", nargs="+", metavar="FILE", help="files, folders, Hub ids or data cards"),
        argument("--goal", help=f"last stage: {', '.join(GOALS)}; default: ppo, or the last with data"),
        argument("--reward_functions", nargs="+", metavar="MODULE:F", help="functions that replace a reward model"),
        argument("--from", dest="foreign", metavar="FILE", help="config of LLaMA-Factory, axolotl or TRL to translate"),
        argument("--output_dir", help="folder for the YAMLs and the runs; default: MODEL-pipeline"),
        *MEMORY_ARGUMENTS,
        argument("--yes", action="store_true", help="use the defaults without asking"),
    ],
    "run": [
        argument("pipeline", help="YAML of the pipeline"),
        argument("--output_dir", help="folder of the runs; overrides the YAML's"),
    ],
    "merge": [
        argument("adapter", help="folder or Hub id of the adapter"),
        argument("out", help="folder for the merged model, new or empty"),
        argument(
            "--dtype", default="bfloat16", help=f"{', '.join(DTYPES)} (auto: that of the base); default: %(default)s"
        ),
        BASE_ARGUMENT,
        argument("--eval_dataset", help="held-out rows to compare adapter and merged model on"),
        argument("--revision", default="main", help="branch, tag or commit of an adapter on the Hub"),
    ],
    "export": [
        argument("model", help="folder or Hub id of a model or an adapter"),
        argument("out", help="folder to write, new or empty"),
        argument("--format", required=True, help="gguf, ollama or vllm"),
        argument("--dtype", help="f32, f16, bf16, or q8_0; default: f16 in a GGUF, bf16 if merged"),
        argument("--adapter", action="store_true", help="for vLLM: export the adapter with its base, not merged"),
        BASE_ARGUMENT,
        argument("--converter", metavar="PATH", help="llama.cpp's convert_hf_to_gguf.py, or its folder"),
        argument("--revision", default="main", help="branch, tag or commit of a model on the Hub"),
    ],
    "push": [
        argument("folder", metavar="DIR", help="folder that a stage, a merge or save_pretrained wrote"),
        *REPOSITORY_ARGUMENTS,
        argument("--with_base", metavar="REPO_ID", help="push the adapter's base too, to this repository"),
        argument("--include", nargs="+", default=[], metavar="PATTERN", help="also push these files"),
    ],
    "pull": [
        argument("repo", metavar="REPO_ID", help="USER/NAME, or USER/NAME@REVISION"),
        argument("out", metavar="DIR", help="folder to write, new or empty"),
        argument("--revision", default="main", help="branch, tag or commit; default: %(default)s"),
        argument("--base", metavar="REPO_ID", help="base of the adapter; default: the one that its config names"),
    ],
    "curve": [
        argument("config", nargs="?", help="YAML of a stage; with --stage, flags alone are enough"),
        argument("--stage", help="stage of the YAML, if its name and keys do not show it"),
        argument("--sizes", nargs="+", type=int, required=True, metavar="ROWS", help="numbers of rows to train on"),
        argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="SEED", help="default: 0 1"),
        argument("--output_dir", default="runs/curve", help="folder of the runs; default: %(default)s"),
    ],
    "report": [argument("run_dir", help="folder of a pipeline or of a run")],
    "chat": [
        argument("model", help="folder or Hub id of a model or an adapter"),
        argument("--against", metavar="MODEL", help="second model, shown side by side"),
        argument("--adapter", nargs="+", metavar="ADAPTER", help="more adapters of the first model's base"),
        argument("--prompt", help="print the response to this message, then exit"),
        *CHAT_ARGUMENTS,
        argument("--temperature", type=float, default=0.7, help="of the sampling; 0 is greedy; default: %(default)s"),
        argument("--length", type=int, default=256, help="most tokens of a response; default: %(default)s"),
        argument("--seed", type=within(int, 0, 2**32 - 1), default=42, help="of the sampling; default: %(default)s"),
        argument("--revision", default="main", help="branch, tag or commit of a model on the Hub"),
    ],
    "serve": [
        argument("models", nargs="+", metavar="MODEL", help="folder or Hub id of a model or an adapter, or NAME=PATH"),
        argument("--host", default="127.0.0.1", help="address to listen on; others than this need an API key"),
        argument("--port", type=within(int, 0, 65535), default=8000, help="0: a free one; default: %(default)s"),
        argument("--api_key_file", metavar="FILE", help="file with the API key; only you may read it (chmod 600)"),
        argument("--allow_origin", nargs="+", metavar="URL", help="web pages that may use the server; default: none"),
        argument("--feedback", metavar="FILE", help="JSONL file to which /v1/feedback appends rows"),
        argument("--backend", choices=("transformers", "vllm"), help="default: vllm if it and a GPU are there"),
        argument(
            "--length", type=within(int, 1), default=1024, help="most tokens if a request sets none; default: 1024"
        ),
        *CHAT_ARGUMENTS,
    ],
    "lineage": [
        argument("path", help="folder or Hub id of a run"),
        argument("--revision", default="main", help="branch, tag or commit of a run on the Hub"),
        argument("--json", action="store_true", help="print JSON, with full hashes"),
    ],
    "plan": [
        *CONFIG_ARGUMENTS,
        *MEMORY_ARGUMENTS,
        argument(
            "--processes", type=within(int, 1), default=1, help="number of processes, each with a GPU; default: 1"
        ),
        argument("--nodes", type=within(int, 1), default=1, help="machines that these processes run on; default: 1"),
        argument(
            "--engine", choices=("ddp", "fsdp2", "zero2", "zero3"), help="engine for several processes; default: ddp"
        ),
    ],
    "quickstart": [
        argument("--output_dir", default="runs/quickstart", help="folder of the runs; default: %(default)s"),
        argument("--configs", default=str(shipped_folder("configs") / "quickstart"), help="folder of the YAMLs"),
    ],
    "data cards": [argument("name", nargs="?", help="card to print")],
    "data check": [
        *CONFIG_ARGUMENTS,
        TOKENIZER_ARGUMENT,
        *(
            argument(f"--{name}", type=within(float, 0, 1), default=default, help=f"{text}; default: {default}")
            for name, default, text in (
                ("max_faults", 0.01, "share of rows that may have the same fault"),
                ("max_duplicates", 0.1, "share of rows that may repeat an earlier row of their source"),
                ("max_overlap", 0.0, "share of training rows whose prompt may be held out"),
                ("max_longer", 0.75, "share of pairs whose better response may be the longer one"),
            )
        ),
    ],
    "data preview": [
        *CONFIG_ARGUMENTS,
        TOKENIZER_ARGUMENT,
        argument("-n", type=within(int, 1), default=3, metavar="ROWS", help="rows per source; default: %(default)s"),
        argument("--split", choices=("train", "test", "ptx"), default="train", help="default: %(default)s"),
        argument("--lost", action="store_true", help="show only rows that are dropped, truncated or faulty"),
        argument("--no_color", action="store_true", help="mark trained tokens with [[ and ]] instead of colors"),
    ],
    "data push": [
        argument("source", metavar="CARD_OR_DIR", help="folder with data files, or data card"),
        *REPOSITORY_ARGUMENTS,
    ],
}
"""The arguments of each verb that fills no config class."""
MODEL_ARGUMENTS = {"chat": "model", "merge": "adapter", "export": "model", "lineage": "path"}
"""The argument to which `--revision` applies, for verbs that read a model."""
TEXT_ARGUMENTS = ("prompt", "system", "message", "tag")
"""Arguments in which a leading `~` is not the home folder."""
WITH_STAGE_FLAGS = ("init", "run", "plan", "curve", "quickstart", "data check", "data preview")
"""Verbs that also accept the flags of stages."""
