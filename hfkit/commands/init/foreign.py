"""Reads a config of another tool: which tool it is for, and which stage of hfkit does the same."""

from dataclasses import dataclass
from pathlib import Path

from hfkit.commands.init.shell import ForeignCommand, find_command
from hfkit.config.other_tools import table
from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.core.files import read_text
from hfkit.core.limits import MAX_YAML_BYTES
from hfkit.core.yaml import read_yaml


@dataclass(frozen=True)
class ForeignConfig:
    """A config of another tool.

    Attributes:
        tool: its name in `other_tools.yaml`.
        stage: the stage of hfkit.
        given: the keys that have a value.
        path: the file.
    """

    tool: str
    stage: str
    given: dict[str, object]
    path: str

    @property
    def defaults(self) -> dict[str, object]:
        """The tool's defaults for the stage that differ from hfkit's."""
        defaults = table()["tools"][self.tool]["defaults"]
        return defaults["all"] | defaults.get(self.stage, {})


def read_foreign(path: str, goal: str | None) -> ForeignConfig:
    """Return the config of another tool in a YAML or JSON file, or in a file with its command.

    Args:
        goal: the stage, for files that do not show it.

    Raises:
        ConfigError: the file cannot be read, is for no known tool, or is for a stage that hfkit does not have.
    """
    problems: list[Problem] = []
    content = read_yaml(path, problems)
    if content is None and (command := command_in(path)):
        named = command.verb if table()["tools"][command.tool]["stage_key"] is None else None
        return ForeignConfig(command.tool, find_stage(command.tool, command.given, goal or named), command.given, path)
    if content is None or problems:
        raise ConfigError(problems, path)
    given = {str(key): value for key, value in content.items() if value is not None}
    tool = find_tool(given)
    if tool is None:
        tools = table()["tools"]
        marks = "; ".join(f"{name}: {', '.join(tool['marks'])}" for name, tool in tools.items())
        raise ConfigError([Problem("--from", path, f"for none of these tools, by their keys ({marks})")])
    return ForeignConfig(tool, find_stage(tool, given, goal), given, path)


def command_in(path: str) -> ForeignCommand | None:
    """Return the command of another tool in a file; None if there is none, or the file cannot be read."""
    try:
        return find_command(read_text(Path(path), MAX_YAML_BYTES))
    except (OSError, ValueError):
        return None


def find_tool(given: dict[str, object]) -> str | None:
    """Return the tool that has one of the keys, or None."""
    return next((name for name, tool in table()["tools"].items() if given.keys() & {*tool["marks"]}), None)


def find_stage(tool: str, given: dict[str, object], goal: str | None) -> str:
    """Return the stage that a config is for.

    Raises:
        ConfigError: hfkit has no such stage, or the file does not show it and no goal is given, or another one; or a
            value makes the stage a method that hfkit lacks.
    """
    known = table()["tools"][tool]
    if known["stage_key"] is None:
        trained = [name for name, spec in STAGES.items() if spec.loop]
        if goal not in trained:
            remedy = (
                table()["verbs"].get(goal or "")
                or f"a config of {tool} does not show its stage: name it, one of {', '.join(trained)}"
            )
            raise ConfigError([Problem("--goal", goal or MISSING, remedy)])
        return goal
    named = str(given.get(known["stage_key"], "sft"))
    if named not in known["stages"] and named != "sft":
        remedy = table()["verbs"].get(named) or f"hfkit translates these: {', '.join(known['stages'])}"
        raise ConfigError([Problem(known["stage_key"], named, remedy)])
    flagged = next((stage for flag, stage in known["stage_flags"].items() if given.get(flag)), None)
    stage = flagged or known["stages"].get(named, named)
    if goal not in (None, stage):
        raise ConfigError([Problem("--goal", goal, f"the file is for {stage}: leave it out")])
    refused = known.get("refused", {}).get(stage, {})
    problems = [
        Problem(key, given[key], remedies[str(given[key])])
        for key, remedies in refused.items()
        if str(given.get(key)) in remedies
    ]
    if problems:
        raise ConfigError(problems)
    return stage
