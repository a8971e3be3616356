"""Validates a config of `hfkit label` before any row is loaded."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hfkit.commands.web.hosts import is_this_machine
from hfkit.commands.web.secret_file import read_secret
from hfkit.config.labeling import PASSWORD, LabelConfig
from hfkit.core.errors import MISSING, HfkitError, Kind, Problem, reason
from hfkit.evaluation.key_checks import count_problems, entry_problems, judge_key_problems
from hfkit.stages.checks.files import folder_problems

HUMAN = "human"
PAGE_PACKAGES = ("fastapi", "uvicorn", "krippendorff")
SHORTEST_PASSWORD = 8


def problems_of(config: LabelConfig) -> list[Problem]:
    """Return every problem of a config; only configs are read, never weights."""
    problems = [*entry_problems("datasets", config.datasets), *folder_problems(config), *problems_of_judge(config)]
    problems += count_problems(config)
    if not config.datasets:
        problems.append(Problem("datasets", [], "name rows to judge: hfkit label FILE"))
    if not 0 <= config.port <= 65_535:
        problems.append(Problem("port", config.port, "must be from 0 to 65535"))
    if config.judge != HUMAN:
        return problems
    if missing := [name for name in PAGE_PACKAGES if find_spec(name) is None]:
        remedy = f"not installed: {', '.join(missing)}: pip install 'hfkit[label]'"
        problems.append(Problem("judge", config.judge, remedy, Kind.NOT_HERE))
    if any(not flag.strip() or len(flag) > 40 for flag in config.flags) or len({*config.flags}) < len(config.flags):
        problems.append(Problem("flags", config.flags, "expected different names of 1 to 40 characters"))
    if config.guide is not None:
        try:
            Path(config.guide).read_text("utf-8")
        except (OSError, ValueError) as error:
            problems.append(Problem("guide", config.guide, f"cannot be read: {reason(error)}"))
    return problems + access_problems(config)


def problems_of_judge(config: LabelConfig) -> list[Problem]:
    """Return problems of the judge; the libraries of models load slowly, and are imported unless people judge."""
    if config.judge == HUMAN:
        return judge_key_problems(config)
    return import_module("hfkit.evaluation.checks").judge_problems(config)


def access_problems(config: LabelConfig) -> list[Problem]:
    """Return problems of the address and the password."""
    try:
        password = password_of(config)
    except HfkitError as error:
        return [Problem("password_file", config.password_file, str(error))]
    if is_this_machine(config.host):
        return []
    if password is None:
        remedy = f"other machines can reach this address: add password_file, or set {PASSWORD}"
        return [Problem("host", config.host, remedy, keys=("password_file",))]
    if len(password) < SHORTEST_PASSWORD:
        return [Problem("password_file", MISSING, f"the password needs {SHORTEST_PASSWORD} characters or more")]
    return []


def password_of(config: LabelConfig) -> str | None:
    """Return the password of the page, from its file or from the environment; None if there is none.

    Raises:
        HfkitError: the file cannot be read, is empty, or is readable by others.
    """
    if config.password_file is None:
        return os.environ.get(PASSWORD) or None
    return read_secret(config.password_file)
