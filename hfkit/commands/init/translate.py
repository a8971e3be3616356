"""Translates a config of LLaMA-Factory, axolotl or TRL to the YAML of a stage, by the table in `other_tools.yaml`."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from hfkit.commands.init.conversions import convert_value, split_items
from hfkit.commands.init.foreign import ForeignConfig, read_foreign
from hfkit.commands.init.foreign_data import SOURCES
from hfkit.commands.init.foreign_entries import Sources
from hfkit.commands.init.prompt_formats import MARK, PLAIN_TEXT
from hfkit.commands.init.setting_checks import IMPLIED, refuse_settings
from hfkit.commands.init.settings import Setting, StageSettings
from hfkit.commands.init.write import write_new, yaml_line
from hfkit.config.other_tools import table, translate
from hfkit.config.registry import STAGES
from hfkit.config.validation import default_of, find_hint, known_fields
from hfkit.core.console import say
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.data.built_in_templates import BUILT_IN_TOKENS

REQUIRED_KEYS = ("model_name_or_path", "datasets")
TEXT_TEMPLATE = "text.jinja"
"""The file with the chat template for text that TRL writes as it is."""
UNKNOWN = "hfkit has no such key"
ADVICE = re.compile(r": remove it(?:, and (.*)|, (or .*)|; (.*))?$")
"""The end of a remedy for a key in a config of hfkit, which a translated config does not have."""


@dataclass
class Translation:
    """What became of the keys of another tool's config.

    Attributes:
        settings: keys of hfkit.
        needless: keys that need none -> why.
        undecided: those that the user must translate.
        differences: keys, or defaults of keys that the config leaves out, with which the tool trains differently.
        template: a chat template that writes prompts as the tool does, as Jinja; "" for the model's own.
    """

    settings: StageSettings = field(default_factory=dict)
    needless: dict[str, str] = field(default_factory=dict)
    undecided: list[Problem] = field(default_factory=list)
    differences: list[Problem] = field(default_factory=list)
    template: str = ""


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
    file, template = folder / f"{config.stage}.yaml", folder / template_file_name(config)
    found = translate_config(config)
    is_new = bool(found.template) and not (template.is_file() and template.read_bytes() == found.template.encode())
    if existing := [one for one, is_written in ((file, True), (template, is_new)) if is_written and one.exists()]:
        remedy = "exists, and no file is overwritten: choose another folder with --output_dir"
        raise ConfigError([Problem("--output_dir", str(existing[0]), remedy)])
    if output_dir or "output_dir" not in found.settings:
        found.settings["output_dir"] = Setting(str(folder / "runs" / config.stage))
    folder.mkdir(parents=True, exist_ok=True)
    if is_new:
        write_new(template, found.template)
    write_new(file, translated_yaml(config, found))
    report_keys(config, found, file)


def translate_config(config: ForeignConfig) -> Translation:
    """Return the settings of a stage that trains as another tool does with a config, its defaults included."""
    found = Translation()
    sources = SOURCES[config.tool](config)
    found.undecided += sources.undecided
    for key, value in sorted(split_items(config.given), key=lambda item: bool(rule_of_key(item[0]).get("same"))):
        if key not in sources.read and key not in stage_keys(config):
            translate_key(key, value, config, found)
    apply_formats(config, sources, found)
    entries = {key: Setting(value) for key, value in sources.entries.items() if value}
    found.settings = {**found.settings, **entries}
    found.settings = {**implied_settings(config, found.settings), **found.settings}
    found.undecided += refuse_settings(config, found.settings)
    found.undecided += unlike_defaults(config, found.settings, "unlike")
    found.differences += key_differences(config) + unlike_defaults(config, found.settings, "unfollowed")
    found.needless = {
        key: why for key, why in found.needless.items() if key not in {one.key for one in found.differences}
    }
    reported = {problem.key for problem in found.undecided}
    missing = [key for key in REQUIRED_KEYS if key not in found.settings and key not in reported]
    found.undecided += [Problem(key, MISSING, "the config names none: add it") for key in missing]
    first = ("model_name_or_path", *entries)
    found.settings = {key: found.settings[key] for key in sorted(found.settings, key=lambda key: key not in first)}
    return found


def template_file_name(config: ForeignConfig) -> str:
    """Return the name of the file with the chat template of a translated config."""
    return TEXT_TEMPLATE if config.tool == "TRL" else f"{config.stage}.jinja"


def apply_formats(config: ForeignConfig, sources: Sources, found: Translation) -> None:
    """Set the chat template that writes prompts as the other tool does, if it writes those of all datasets alike.

    TRL's depends on the rows: the template for text is written, for the user to set.
    """
    own = {*sources.templates}
    if config.tool == "TRL" and "chat_template_path" not in config.given:
        found.template = PLAIN_TEXT.template
    elif len(own) > 1:
        kinds = [str(entry.get("type")) for entry in config.given["datasets"] if isinstance(entry, dict)]
        remedy = (
            f"{config.tool} has a format for each, hfkit one chat_template for all: the model's own writes them now"
        )
        found.undecided.append(Problem("datasets", kinds, remedy))
        for entry in (entry for entries in sources.entries.values() for entry in entries):
            columns = {name: text.replace(MARK, "\n") for name, text in entry.pop("columns", {}).items()}
            entry |= {"columns": columns} if columns else {}
    elif own - {""}:
        if given := found.settings.pop("chat_template", None):
            found.needless["chat_template"] = f"{given.value}: {config.tool} writes these prompts without it"
        template = own.pop()
        found.template = "" if template in BUILT_IN_TOKENS else template
        name = template_file_name(config) if found.template else template
        found.settings["chat_template"] = Setting(name, f"prompts as {config.tool} writes them")


def implied_settings(config: ForeignConfig, settings: StageSettings) -> StageSettings:
    """Return the settings for the tool's defaults of keys that the config leaves out."""
    implied = Translation()
    for key, value in config.defaults.items():
        if key not in config.given:
            translate_key(key, value, config, implied)
    trains_adapter = {**implied.settings, **settings}.get("use_peft", Setting(False)).value
    return {
        key: Setting(one.value, f"{IMPLIED}{config.tool}")
        for key, one in implied.settings.items()
        if trains_adapter or not key.startswith("lora_")
    }


def unlike_defaults(config: ForeignConfig, settings: StageSettings, kind: str) -> list[Problem]:
    """Return the tool's defaults that no setting of hfkit gives, for keys that the config leaves out.

    Args:
        kind: "unlike" for those that the user must decide, "unfollowed" for those that hfkit cannot follow.
    """
    unlike = table()["tools"][config.tool].get(kind, {})
    trains_adapter = settings.get("use_peft", Setting(False)).value
    return [
        Problem(keys.split()[0], MISSING, remedy)
        for keys, remedy in {**unlike.get("all", {}), **unlike.get(config.stage, {})}.items()
        if all(config.given.get(key, False) is False for key in keys.split())
        and (trains_adapter or not keys.startswith("lora_"))
    ]


def key_differences(config: ForeignConfig) -> list[Problem]:
    """Return how keys of the config that are translated differ between the tools."""
    found, known = [], table()["tools"][config.tool].get("differs", {})
    for key, value in config.given.items():
        texts = known.get(key, {})
        text = texts.get(f"{config.stage} {value}".lower())
        if text := text or (None if is_default(config, key, value) else texts.get(config.stage)):
            found.append(Problem(key, value, text))
    return found


def is_default(config: ForeignConfig, key: str, value: object) -> bool:
    """Return whether a value is the default of TRL's trainer; other tools have other keys."""
    fields = getattr(STAGES[config.stage].config_class.trainer_config_class(), "__dataclass_fields__", {})
    return config.tool == "TRL" and key in fields and value == default_of(fields[key])


def stage_keys(config: ForeignConfig) -> set[str]:
    """Return the keys that say what stage a config is for; a path in one of them says more."""
    known = table()["tools"][config.tool]
    return {known["stage_key"], *(flag for flag in known["stage_flags"] if config.given.get(flag) is True)}


def rule_of_key(key: str) -> dict:
    """Return the rule of the table for a key, {} if it has none."""
    return table()["keys"].get(key, {})


def translate_key(key: str, value: object, config: ForeignConfig, found: Translation) -> None:
    """Translate one key: to settings, to nothing if none is needed, or to a problem for the user to solve."""
    config_class, rule = STAGES[config.stage].config_class, rule_of_key(key)
    known = known_fields(config_class)
    ours = [one for one in rule.get("use", ()) if one in known]
    text = str(value).lower()
    remedies = table()["tools"][config.tool].get("decide", {}).get(key, {})
    if remedy := remedies.get(text) or remedies.get(f"{config.stage} {text}"):
        found.undecided.append(Problem(key, value, remedy, keys=tuple(ours)))
        return
    settings, (hint, why_unknown) = settings_for(key, value, config, ours), find_hint(config_class, key)
    if settings is None and hint is not None:
        settings = {key: value}
    elif settings is None and ours and (rule.get("same") or "say" not in rule):
        settings = {ours[0]: value}
    if settings is not None:
        usable = {name: one for name, one in settings.items() if find_hint(config_class, name)[0] is not None}
        set_keys(usable, key, value, "" if key in known else key, found)
        if not usable:
            found.needless[key] = f"{value} needs no setting"
    elif (
        rule.get("leave")
        or (rule and not rule.get("use") and not rule.get("set"))
        or is_needless(key, why_unknown, config)
    ):
        found.needless[key] = without_advice(rule.get("say") or why_unknown)
    elif value in (False, "", 0, [], {}):
        found.needless[key] = "it is off, and hfkit has no such key"
    else:
        remedy = translate(key, known)[0] or why_unknown or UNKNOWN
        found.undecided.append(Problem(key, value, remedy, keys=tuple(ours)))


def is_needless(key: str, why_unknown: str, config: ForeignConfig) -> bool:
    """Return whether a stage refuses a key, and nothing is needed in its place."""
    return bool(why_unknown) and key not in table()["tools"][config.tool].get("instead", ())


def settings_for(key: str, value: object, config: ForeignConfig, ours: list[str]) -> dict | None:
    """Return the settings for a value, from the table or a conversion; None if neither has the value.

    Args:
        ours: keys of the stage with the same meaning.
    """
    rule = rule_of_key(key)
    by_value = {str(one).lower(): settings for one, settings in rule.get("set", {}).items()}
    if (settings := by_value.get(str(value).lower())) is not None:
        return settings
    return convert_value(key, value, config) if ours or "use" not in rule else None


def set_keys(settings: dict, key: str, value: object, why: str, found: Translation) -> None:
    """Add the settings for a key, unless another key sets one of them otherwise; a `same` key replaces its setting."""
    set_before = {name: found.settings[name] for name in settings.keys() & found.settings.keys()}
    clashes = [name for name, one in set_before.items() if one.value != settings[name]]
    if clashes and not rule_of_key(key).get("same"):
        other = set_before[clashes[0]].why or clashes[0]
        found.undecided.append(Problem(key, value, f"{other} sets {clashes[0]} too: keep one of them"))
    else:
        found.needless |= {set_before[name].why or name: f"{key} sets {name}" for name in clashes}
        found.settings |= {name: Setting(one, why) for name, one in settings.items()}


def without_advice(remedy: str) -> str:
    """Return a remedy without the advice to remove the key, which the written config does not have."""
    found = ADVICE.search(remedy)
    rest = found and next((one for one in found.groups() if one), "")
    return remedy[: found.start()] + (f"; {rest}" if rest else "") if found else remedy


def translated_yaml(config: ForeignConfig, found: Translation) -> str:
    """Return the YAML of a translated config; what was not translated is in comments at its end."""
    title = STAGES[config.stage].title
    lines = [comment(f"{title}, as in {config.path} ({config.tool}). All keys: hfkit {config.stage} --help")]
    lines += [yaml_line((key, setting)) for key, setting in found.settings.items()]
    if found.undecided:
        lines += [comment("To decide:"), *(comment(f"- {problem}") for problem in found.undecided)]
    if found.differences:
        lines += [comment(f"Different in {config.tool}:"), *(comment(f"- {one}") for one in found.differences)]
    if found.needless:
        lines += [comment("Not needed:"), *(comment(f"- {key}: {why}") for key, why in found.needless.items())]
    return "".join(lines)


def comment(text: str) -> str:
    """Return a comment of one line, whatever the text holds."""
    return f"# {' '.join(text.split())}\n"


def report_keys(config: ForeignConfig, found: Translation, file: Path) -> None:
    """Print what became of the keys, and the next command."""
    implied = sum(one.why.startswith(IMPLIED) for one in found.settings.values())
    say(f"{config.path}: {config.stage} in {config.tool}")
    say(f"keys translated: {len(found.settings) - implied}; defaults of {config.tool} written out: {implied}")
    for key, why in found.needless.items():
        say(f"  not needed: {key}: {why}")
    for problem in found.undecided:
        say(f"  to decide: {problem}")
    for problem in found.differences:
        say(f"  different: {problem}")
    also = f", {file.parent / template_file_name(config)}" if found.template else ""
    say(f"written: {file}{also}")
    say(f"next: hfkit {config.stage} {file}")
