"""Resolves relative paths of input files in a YAML: from the YAML's folder first, then from the current folder.

Output folders, and paths in flags, are always relative to the current folder.
"""

import os
from collections.abc import Callable
from pathlib import Path

from hfkit.config.evaluation import JUDGE_KINDS
from hfkit.core.errors import Problem
from hfkit.core.home import expand_home

DATASETS = ("datasets", "eval_datasets", "ptx_datasets", "prompts")
MODELS = ("model_name_or_path", "tokenizer_name_or_path", "reward_model_path", "reference", "reward_model", "judge")
NAMED_MODELS = ("against", "models")
FUNCTIONS = ("reward_functions", "reward_function")
FILES = ("path", "card", "chat_template", "deepspeed", "guide", "password_file")


def is_model(path: str) -> bool:
    """Return whether a path is a folder with a model or a tokenizer; other folders may be named like a Hub model."""
    return os.path.isdir(path) and any(Path(path).glob("*.json"))


EXISTS: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys((*DATASETS, *FILES, *FUNCTIONS), os.path.exists),
    "chat_template": os.path.isfile,  # a folder may share the name of a template
    **dict.fromkeys((*MODELS, *NAMED_MODELS), is_model),
}
"""The keys of a YAML that name input files, each with a test of what must exist at the path."""


def resolve_inputs(given: dict | None, folder: str | os.PathLike, problems: list[Problem], prefix: str = ""):
    """Return the content of a YAML with the paths of its input files relative to the current folder.

    Args:
        given: None for a file that could not be read.
        folder: where the YAML is.
        problems: one is added for each path that exists both in the YAML's folder and in the current folder.
        prefix: prefix of the keys in problems.
    """
    if given is None:
        return None
    return {name: _resolve(name, value, folder, f"{prefix}{name}", problems) for name, value in given.items()}


def _resolve(name: str, value, folder: str | os.PathLike, key: str, problems: list[Problem]):
    if isinstance(value, list) and name in EXISTS:
        return [_resolve(name, item, folder, f"{key}[{index}]", problems) for index, item in enumerate(value)]
    if isinstance(value, dict) and name in DATASETS:
        return resolve_inputs(value, folder, problems, f"{key}.")
    if not isinstance(value, str) or name not in EXISTS:
        return value
    before, path, after = _parts(name, value)
    return f"{before}{resolve_path(path, folder, EXISTS[name], key, problems)}{after}" if path else value


def _parts(name: str, value: str) -> tuple[str, str, str]:
    """Return the text before the path in a value, the path, and the text after it; "" if there is no path."""
    if name in FUNCTIONS:
        file, sign, function = value.rpartition(":")
        return ("", file, f"{sign}{function}") if file.endswith(".py") else ("", "", value)
    if name in NAMED_MODELS:
        model, sign, path = value.partition("=")
        return (f"{model}=", path, "") if sign and "/" not in model else ("", value, "")
    is_name = (name == "card" and not value.endswith(".md")) or (name == "judge" and value in JUDGE_KINDS)
    return ("", "", value) if is_name else ("", value, "")


def resolve_path(
    path: str,
    folder: str | os.PathLike,
    exists: Callable[[str], bool],
    key: str = "",
    problems: list[Problem] | None = None,
) -> str:
    """Return a path of a YAML relative to the current folder if it exists in the YAML's folder, else unchanged.

    Args:
        problems: one is added if the path exists in both folders; without it, the YAML's folder comes first.
    """
    in_folder = os.path.normpath(os.path.join(folder, expand_home(path)))
    if os.path.isabs(expand_home(path)) or not exists(in_folder):
        return path
    if problems is None or not exists(path):
        return in_folder
    if not os.path.samefile(in_folder, path):
        both = f"both {os.path.abspath(in_folder)} (YAML's folder) and {os.path.abspath(path)} (current folder)"
        problems.append(Problem(key, path, f"{both} exist: write the absolute path of one"))
    return path
