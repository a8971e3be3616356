"""Reads the commands of a bash block, checks that hfkit knows what they say, and makes them short enough for a test."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from hfkit.cli import DATA_VERBS, VERBS, find_module
from hfkit.commands.arguments import (
    ARGUMENTS,
    EVALUATIONS,
    SHORT_FLAGS,
    WITH_STAGE_FLAGS,
    read_arguments,
    split_stage_flags,
)
from hfkit.commands.rounds.plan import plan_rounds
from hfkit.config.parsing import group_flags, parse
from hfkit.config.registry import STAGES
from hfkit.config.validation import check_fields, known_fields
from hfkit.core.errors import MISSING, ConfigError, Kind, Problem
from hfkit.core.yaml import read_yaml
from hfkit.stages.pipeline_file import is_pipeline, read_pipeline
from hfkit.stages.read_configs import infer_stage, read_configs

STEPS = {"--max_steps": ["3"]}
REPLIES = {"--response_length": ["8"]}
SHORT = {
    **dict.fromkeys(("pretrain", "sft", "reward"), STEPS),
    "dpo": {**STEPS, **REPLIES, "--eval_prompts": ["4"]},
    **{key: {"--max_steps": ["2"], **REPLIES} for key in ("grpo", "rloo")},
    "ppo": {"--total_episodes": ["64"], "--response_length": ["16"]},
    "evaluate": {"--max_prompts": ["8"], **REPLIES},
    "sample": {"--max_prompts": ["8"], **REPLIES},
    "curve": STEPS,
    "arena": {"--max_prompts": ["8"], **REPLIES, "--diversity_prompts": ["2"], "--diversity_samples": ["2"]},
}
"""The flags that make a verb short; they replace those of the page."""
LAUNCHERS = ("accelerate", "torchrun", "srun", "deepspeed", "mpirun")
FILE_TOOLS = ("cat", "cp", "head", "ls", "mkdir", "tail")
"""Programs that are run unchanged."""
PROGRAMS = {
    *(
        *LAUNCHERS,
        "apt-get",
        "brew",
        "conda",
        "curl",
        "docker",
        "git",
        "pkill",
        "python3",
        "trl",
        "hf",
        "kill",
        "kubectl",
        "llama-cli",
    ),
    *("llama-server", "mv", "nohup", "nvidia-smi", "ollama", "pip", "rm", "rsync", "sbatch", "scancel", "scontrol"),
    *("sleep", "source", "squeue", "ssh", "tar", "tensorboard", "tmux", "trackio", "unzip", "uv", "vllm", "wandb"),
    *("wget", "xdg-open", "zip"),
}
"""Programs that are not run."""
ELSEWHERE = "^no such folder, and not a Hub id|nor a model in the Hub's cache|LocalEntryNotFoundError"
"""The remedies for a model that is on the Hub, or made later."""
OPERATORS = {"|", "||", "&&", ";", "&", "|&"}


@dataclass
class Command:
    """A command of a bash block: `NAME=value program words`."""

    line: int
    text: str
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def hfkit_words(self) -> list[str] | None:
        """The words after `hfkit`, also where Python or a launcher starts it; None for another program."""
        if self.words[0] == "hfkit":
            return self.words[1:]
        if self.words[0] in ("python", "python3", *LAUNCHERS):
            for at, word in enumerate(self.words):
                if word == "hfkit.cli" and self.words[at - 1] == "-m":
                    return self.words[at + 1 :]
                script = re.fullmatch(r"(?:.*/)?scripts/(?:train_)?(\w+)\.py", word)
                if script and script[1] in STAGES:
                    return [script[1], *self.words[at + 1 :]]
        return None


def read_commands(text: str, line: int = 1) -> list[Command]:
    """Return the commands of a bash block, one or more a line; comments and redirections are left out.

    Args:
        line: the number of the block's first line.
    """
    commands, open_line, first = [], "", line
    for number, content in enumerate(text.splitlines(), line):
        first = first if open_line else number
        open_line += content
        if content.rstrip().endswith("\\"):
            open_line = open_line.rstrip()[:-1] + " "
            continue
        for words in split_line(open_line):
            environment = {}
            while words and (found := re.fullmatch(r"(?:export )?([A-Za-z_]\w*)=(.*)", words[0], re.DOTALL)):
                environment[found[1]] = found[2]
                words = words[1:]
            if words:
                commands.append(Command(first, shlex.join(words), words, environment))
        open_line = ""
    return commands


def split_line(line: str) -> list[list[str]]:
    """Return the words of each command of a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    commands: list[list[str]] = [[]]
    skips_next = False
    for word in strip_comment(lexer):
        if skips_next:
            skips_next = False
        elif word in OPERATORS:
            commands.append([])
        elif re.fullmatch(r"[<>&|]+", word):
            if commands[-1] and commands[-1][-1] in ("1", "2"):
                commands[-1].pop()
            skips_next = True
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def strip_comment(words):
    """Yield words up to the first that begins with `#`."""
    for word in words:
        if word.startswith("#"):
            return
        yield word


def shorten(words: list[str]) -> list[str]:
    """Return the words of an hfkit command with the flags that make it short."""
    if "--help" in words or "-h" in words:
        return words
    if words[0] == "evaluate" and Path(words[1]).name == "reward":  # a reward model writes no responses
        return words
    if words[0] in ("run", "quickstart"):
        path = next(
            (word for word in words[1:] if word.endswith((".yaml", ".yml"))), "configs/quickstart/pipeline.yaml"
        )
        stages = read_pipeline(Path(path)).stages
        return replace_flags(words, dotted_flags(stages))
    return replace_flags(words, SHORT.get(words[0], {}))


def dotted_flags(stages) -> dict[str, list[str]]:
    """Return the short flags of several stages, as a pipeline takes them."""
    return {
        flag.replace("--", f"--{stage}."): value for stage in stages for flag, value in SHORT.get(stage, {}).items()
    }


def replace_flags(words: list[str], flags: dict[str, list[str]]) -> list[str]:
    """Return a command line with some flags set; they replace those that it has."""
    kept, drops = [], False
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0]
            drops = name in flags or ("." not in name and any(flag.endswith(f".{name[2:]}") for flag in flags))
        if not drops:
            kept.append(word)
    return [*kept, *(word for flag, values in flags.items() for word in (flag, *values))]


def check_command(words: list[str]) -> None:
    """Check the verb, the flags and the keys of an hfkit command. Files that it names may be missing.

    Raises:
        ConfigError: with what is wrong.
        SystemExit: from argparse.
    """
    if words[0] in ("--help", "--version", "-h") or words in (["data"], ["data", "--help"]):
        return
    verb = " ".join(words[:2]) if words[0] == "data" else words[0]
    argv = words[len(verb.split()) :]
    if not find_module(verb):
        known = [*VERBS, *(f"data {name}" for name in DATA_VERBS)]
        raise ConfigError([Problem("verb", verb, f"expected one of: {', '.join(known)}")])
    if "--help" in argv:
        return
    if verb in STAGES:
        check_stage(verb, argv)
    elif verb in EVALUATIONS:
        check_evaluation(verb, argv)
    else:
        given = read_arguments(verb, find_module(verb), argv)
        if verb in WITH_STAGE_FLAGS:
            check_stage_flags(verb, given, argv)


def check_stage(verb: str, argv: list[str]) -> None:
    """Check the command line of a stage, with its YAML if that is there."""
    first = argv[0] if argv and not argv[0].startswith("-") else None
    flags = argv[1:] if first else argv
    path = first or next((words[0] for key, words in group_flags(flags, []) if key == "config" and words), None)
    rest = flags if first else replace_flags(flags, {"--config": []})[:-1]
    if path is None or Path(path).is_file():
        check_configs(path, verb, rest)
    else:
        check_without_file(STAGES[verb].config_class, rest, verb)


def check_evaluation(verb: str, argv: list[str]) -> None:
    """Check the command line of an evaluation, and not its files."""
    config_class, key = EVALUATIONS[verb]
    first = argv[0] if argv and not argv[0].startswith("-") else ""
    if first.endswith((".yaml", ".yml")):
        argv = [f"--config={first}", *argv[1:]] if Path(first).is_file() else argv[1:]
    elif first:
        argv = [f"--{key}", *argv]
    argv = [SHORT_FLAGS.get(verb, {}).get(word, word) for word in argv]
    check_without_file(config_class, argv, verb)


def check_configs(path: str | None, stage: str | None, flags: list[str]) -> None:
    """Check a YAML and flags as `hfkit plan` does; models may be on the Hub, or made later."""
    folder = next((words[0] for key, words in group_flags(flags, []) if key == "output_dir" and words), None)
    flags = replace_flags(flags, {"--output_dir": []})[:-1]
    try:
        pipeline = read_pipeline(Path(path)) if path and is_pipeline(read_yaml(path, []) or {}) else None
        if pipeline and pipeline.rounds:
            plan_rounds(pipeline, Path(folder or pipeline.output_dir), flags)
        else:
            read_configs(path, stage, folder, flags)
    except ConfigError as error:
        problems = [
            one
            for one in error.problems
            if one.kind not in (Kind.NO_SUCH_FILE, Kind.NOT_HERE) and not re.search(ELSEWHERE, one.remedy)
        ]
        if problems:
            raise ConfigError(problems, error.source) from None


def check_without_file(config_class: type, argv: list[str], verb: str) -> None:
    """Check flags; keys that are not among them may be in a file."""
    try:
        parse(config_class, argv, f"hfkit {verb}", "")
    except ConfigError as error:
        problems = [problem for problem in error.problems if problem.value is not MISSING]
        if problems:
            raise ConfigError(problems) from None


def check_stage_flags(verb: str, given, argv: list[str]) -> None:
    """Check the flags of stages that `run`, `plan`, `init` and other verbs take, with the YAML if that is there."""
    path = getattr(given, "pipeline", None) or getattr(given, "config", None)
    if verb == "quickstart":
        path = "configs/quickstart/pipeline.yaml"
    flags = split_stage_flags(ARGUMENTS[verb], argv)[1]
    stage = getattr(given, "stage", None)
    if path and Path(path).is_file() and not stage:
        stage = None if is_pipeline(read_yaml(str(path), [])) else infer_stage(path, read_yaml(str(path), []))
    if (path and Path(path).is_file()) or (stage and not path):
        check_configs(path, stage, flags)
        return
    problems: list[Problem] = []
    for key, words in group_flags(flags, problems):
        of_stage, _, own = key.rpartition(".")
        classes = [spec.config_class for name, spec in STAGES.items() if of_stage in ("", name)]
        if not any({own, own.removeprefix("no_")} & set(known_fields(one)) for one in classes):
            problems.append(Problem(f"--{key}", " ".join(words), "unknown"))
    if problems:
        raise ConfigError(problems)


def check_yaml(path: Path) -> None:
    """Check a YAML file of a page: that of a pipeline, a stage or an evaluation. Required keys may be flags.

    Raises:
        ConfigError: with the problems of the config that it fits best.
    """
    content = read_yaml(str(path), [])
    if content and is_pipeline(content):
        pipeline = read_pipeline(path)
        for stage, layers in pipeline.stages.items():
            for layer in layers:
                check_keys(STAGES[stage].config_class, layer.content)
        return
    errors = []
    for config_class in [*(spec.config_class for spec in STAGES.values()), *(one for one, _ in EVALUATIONS.values())]:
        try:
            return check_keys(config_class, content)
        except ConfigError as error:
            errors.append(error)
    raise min(errors, key=lambda error: len(error.problems))


def check_keys(config_class: type, content: dict | None) -> None:
    """Raise ConfigError if a config class does not have the keys of a YAML, or not their values."""
    problems: list[Problem] = []
    check_fields(config_class, content or {}, {}, problems, "")
    if problems:
        raise ConfigError(problems)
