"""Reads a config of another tool: which tool it is for, and which stage of hfkit does the same."""

from dataclasses import dataclass
from pathlib import Path

from hfkit.commands.init.foreign_command import ForeignCommand, find_command
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
        given = with_config(command.given, Path(path).parent)
        return ForeignConfig(command.tool, find_stage(command.tool, given, goal or named), given, path)
    if content is None or problems:
        raise ConfigError(problems, path)
    given = {str(key): value for key, value in content.items() if value is not None}
    tools = table()["tools"]
    tool = next((name for name, one in tools.items() if given.keys() & {*one["marks"]}), None)
    if tool is None:
        marks = "; ".join(f"{name}: {', '.join(tool['marks'])}" for name, tool in tools.items())
        raise ConfigError([Problem("--from", path, f"for none of these tools, by their keys ({marks})")])
    return ForeignConfig(tool, find_stage(tool, given, goal), given, path)


def command_in(path: str) -> ForeignCommand | None:
    """Return the command of another tool in a file; None if there is none, or the file cannot be read."""
    try:
        return find_command(read_text(Path(path), MAX_YAML_BYTES))
    except (OSError, ValueError):
        return None


def with_config(given: dict[str, object], folder: Path) -> dict[str, object]:
    """Return the flags of a command with the keys of the file that its flag `--config` names; flags override them.

    Args:
        folder: where the file is too, if it is not in the current folder.

    Raises:
        ConfigError: the file cannot be read.
    """
    if "config" not in given:
        return given
    named, problems = Path(str(given["config"])), []
    content = read_yaml(str(named if named.is_file() else folder / named), problems)
    if content is None or problems:
        raise ConfigError(problems or [Problem("--config", str(named), "not a YAML mapping")])
    flags = {key: value for key, value in given.items() if key != "config"}
    return {str(key): value for key, value in content.items() if value is not None} | flags


def stages_with(given: dict[str, object], flags: dict[str, list[str]]) -> list[str]:
    """Return the stages that fit the keys of a TRL config: those whose trainers have all of its keys that any has.

    Args:
        flags: keys of scripts, which no trainer has -> the stages.
    """
    keys = {
        name: {*getattr(spec.config_class.trainer_config_class(), "__dataclass_fields__", {})}
        for name, spec in STAGES.items()
        if spec.loop and spec.form != "text"
    }
    of_any = set().union(*keys.values())
    fitting = [name for name, own in keys.items() if own >= given.keys() & of_any]
    return [name for name in fitting if all(name in stages for key, stages in flags.items() if key in given)]


def find_stage_by_keys(tool: str, given: dict[str, object], goal: str | None) -> str:
    """Return the stage of a config that does not name it: the goal, or the only one that fits its keys.

    Raises:
        ConfigError: the goal is not a stage, or without a goal, several stages fit, or none.
    """
    trained = [name for name, spec in STAGES.items() if spec.loop]
    fitting = [] if goal else stages_with(given, table()["tools"][tool]["stage_flags"])
    if goal not in trained and len(fitting) != 1:
        one_of = f"a config of {tool} does not show its stage: name it, one of {', '.join(fitting or trained)}"
        raise ConfigError([Problem("--goal", goal or MISSING, table()["verbs"].get(goal or "") or one_of)])
    return goal or fitting[0]


def find_stage(tool: str, given: dict[str, object], goal: str | None) -> str:
    """Return the stage that a config is for.

    Raises:
        ConfigError: hfkit has no such stage, or the file does not show it and no goal is given, or another one; or a
            value makes the stage a method that hfkit lacks.
    """
    known = table()["tools"][tool]
    if known["stage_key"] is None:
        return find_stage_by_keys(tool, given, goal)
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
