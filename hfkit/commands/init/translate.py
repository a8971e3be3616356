"""Translates a config of LLaMA-Factory, axolotl or TRL to the YAML of a stage, by the table in `other_tools.yaml`."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from hfkit.commands.init.foreign import ForeignConfig, read_foreign
from hfkit.commands.init.foreign_data import SOURCES, split_names
from hfkit.commands.init.settings import Setting, StageSettings
from hfkit.commands.init.write import write_new, yaml_line
from hfkit.config.other_tools import table, translate
from hfkit.config.registry import STAGES
from hfkit.config.validation import check_fields, find_hint, known_fields, top_level_key
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, Problem

UNKNOWN = "hfkit has no such key"
END_OF_ADVICE = ": remove it"
"""The end of a remedy for a key in a config of hfkit, which a translated config does not have."""


@dataclass
class Translation:
    """What became of the keys of another tool's config.

    Attributes:
        settings: keys of hfkit.
        needless: keys that need none -> why.
        undecided: those that the user must translate.
    """

    settings: StageSettings = field(default_factory=dict)
    needless: dict[str, str] = field(default_factory=dict)
    undecided: list[Problem] = field(default_factory=list)


def write_translated(path: str, goal: str | None, output_dir: str | None) -> None:
    """Write the YAML of the stage that does what another tool's config does, and print what became of its keys.

    Args:
        goal: the stage, for files that do not show it.
        output_dir: folder for the YAML and its runs; None: the current folder, and the runs where the config says.

    Raises:
        ConfigError: the file is for no known tool, for a stage that hfkit lacks, or the YAML exists already.
    """
    config = read_foreign(path, goal)
    folder = Path(output_dir or ".")
    file = folder / f"{config.stage}.yaml"
    if file.exists():
        remedy = "exists, and no file is overwritten: choose another folder with --output_dir"
        raise ConfigError([Problem("--output_dir", str(file), remedy)])
    found = translate_config(config)
    if output_dir or "output_dir" not in found.settings:
        found.settings["output_dir"] = Setting(str(folder / "runs" / config.stage))
    folder.mkdir(parents=True, exist_ok=True)
    write_new(file, translated_yaml(config, found))
    report_keys(config, found, file)


def translate_config(config: ForeignConfig) -> Translation:
    """Return the settings of a stage that trains as another tool does with a config, its defaults included."""
    found, config_class = Translation(), STAGES[config.stage].config_class
    sources = SOURCES[config.tool](config)
    found.undecided += sources.undecided
    defaults = Translation()
    for key, value in config.defaults.items():
        translate_key(key, value, config, defaults)
    for key, value in sorted(config.given.items(), key=lambda item: bool(table_line(item[0]).get("same"))):
        if key not in sources.read and key not in stage_keys(config):
            translate_key(key, value, config, found)
    entries = {key: Setting(value) for key, value in sources.entries.items() if value}
    implied = {key: Setting(one.value, f"default of {config.tool}") for key, one in defaults.settings.items()}
    found.settings = {**implied, **found.settings, **entries}
    if found.settings.get("use_peft", Setting(False)).value is False:
        found.settings = {key: one for key, one in found.settings.items() if one not in adapter_keys(implied).values()}
    leave_faulty(config_class, found)
    first = ("model_name_or_path", *entries)
    found.settings = {key: found.settings[key] for key in sorted(found.settings, key=lambda key: key not in first)}
    return found


def stage_keys(config: ForeignConfig) -> set[str]:
    """Return the keys that say what stage a config is for; a path in one of them says more."""
    known = table()["tools"][config.tool]
    return {known["stage_key"], *(flag for flag in known["stage_flags"] if config.given.get(flag) is True)}


def adapter_keys(settings: StageSettings) -> StageSettings:
    """Return the settings of an adapter."""
    return {key: one for key, one in settings.items() if key.startswith("lora_")}


def table_line(key: str) -> dict:
    """Return what the table says about a key."""
    return table()["keys"].get(key, {})


def translate_key(key: str, value: object, config: ForeignConfig, found: Translation) -> None:
    """Translate one key: to settings, to nothing if none is needed, or to a problem for the user to solve."""
    config_class, line = STAGES[config.stage].config_class, table_line(key)
    known = known_fields(config_class)
    meant = {str(one).lower(): settings for one, settings in line.get("set", {}).items()}
    ours = [one for one in line.get("use", ()) if one in known]
    why = "" if key in known else key
    if (settings := meant.get(str(value).lower())) is not None:
        usable = {name: one for name, one in settings.items() if find_hint(config_class, name)[0] is not None}
        found.settings |= {name: Setting(one, why) for name, one in usable.items()}
        if not usable:
            found.needless[key] = f"{value} needs no setting"
    elif converted := computed(key, value, config.given):
        found.settings |= {name: Setting(one, why) for name, one in converted.items()}
    elif (hint := find_hint(config_class, key))[0] is not None:
        found.settings[key] = Setting(value)
    elif ours and (line.get("same") or "say" not in line):
        found.settings[ours[0]] = Setting(value, why)
    elif line.get("leave") or (line and not line.get("use") and not meant) or hint[1]:
        found.needless[key] = (line.get("say") or hint[1]).removesuffix(END_OF_ADVICE)
    elif value in (False, "", 0, [], {}):
        found.needless[key] = "it is off, and hfkit has no such key"
    else:
        found.undecided.append(Problem(key, value, translate(key, known)[0] or UNKNOWN, keys=tuple(ours)))


def computed(key: str, value: object, given: dict) -> dict | None:
    """Return the settings for a value that must be computed; None for all others."""
    try:
        return CONVERSIONS[key](value, given) if key in CONVERSIONS else None
    except (TypeError, ValueError, ArithmeticError):  # of another type than the tool expects
        return None


def names_of(key: str):
    """Return a function that reads a text of names with commas as a list."""
    return lambda value, _: {key: split_names(value)}


def times_per_epoch(strategy: str, steps: str):
    """Return a function that translates a number of times per epoch: 1 is a strategy, others are a share of the run."""
    return lambda value, given: (
        {strategy: "epoch"}
        if value == 1
        else {strategy: "steps", steps: round(1 / (value * float(given.get("num_epochs", 1))), 4)}
    )


def with_sft_loss(value: object, given: dict) -> dict:
    """Return the settings that add a weighted SFT loss to the one on preferences."""
    loss = given.get("pref_loss", given.get("loss_type", "sigmoid"))
    return {"loss_type": [loss, "sft"], "loss_weights": [1.0, value]} if value else {}


CONVERSIONS = {
    "lora_target": names_of("lora_target_modules"),
    "target_modules": names_of("lora_target_modules"),
    "additional_target": names_of("modules_to_save"),
    "evals_per_epoch": times_per_epoch("eval_strategy", "eval_steps"),
    "saves_per_epoch": times_per_epoch("save_strategy", "save_steps"),
    "pref_ftx": with_sft_loss,
    "rpo_alpha": with_sft_loss,
    "special_tokens": lambda value, _: {"pad_token": value["pad_token"]} if [*value] == ["pad_token"] else None,
}
"""Key -> a function of its value and of the whole config that returns settings of hfkit; None: the table's answer."""


def leave_faulty(config_class: type, found: Translation) -> None:
    """Move settings that the stage does not accept to `undecided`."""
    problems: list[Problem] = []
    check_fields(config_class, {key: one.value for key, one in found.settings.items()}, {}, problems, "")
    for problem in problems:
        ours = top_level_key(problem.key)
        theirs = found.settings.pop(ours, Setting(None)).why or ours
        found.undecided.append(replace(problem, key=problem.key.replace(ours, theirs, 1)))


def translated_yaml(config: ForeignConfig, found: Translation) -> str:
    """Return the YAML of a translated config; what was not translated is in comments at its end."""
    title = STAGES[config.stage].title
    lines = [comment(f"{title}, as in {config.path} ({config.tool}). All keys: hfkit {config.stage} --help")]
    lines += [yaml_line((key, setting)) for key, setting in found.settings.items()]
    if found.undecided:
        lines += [comment("To decide:"), *(comment(f"- {problem}") for problem in found.undecided)]
    if found.needless:
        lines += [comment("Not needed:"), *(comment(f"- {key}: {why}") for key, why in found.needless.items())]
    return "".join(lines)


def comment(text: str) -> str:
    """Return a comment of one line, whatever the text holds."""
    return f"# {' '.join(text.split())}\n"


def report_keys(config: ForeignConfig, found: Translation, file: Path) -> None:
    """Print what became of the keys, and the next command."""
    implied = sum(one.why.startswith("default of ") for one in found.settings.values())
    say(f"{config.path}: {config.stage} in {config.tool}")
    say(f"keys translated: {len(found.settings) - implied}; defaults of {config.tool} written out: {implied}")
    for key, why in found.needless.items():
        say(f"  not needed: {key}: {why}")
    for problem in found.undecided:
        say(f"  to decide: {problem}")
    say(f"written: {file}")
    say(f"next: hfkit {config.stage} {file}")
