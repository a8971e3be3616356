"""Writes the YAMLs of a pipeline: a line for each key, with the reason for its value."""

from pathlib import Path

import yaml

from hfkit.commands.init.settings import Setting, StageSettings
from hfkit.config.registry import STAGES
from hfkit.core.errors import ConfigError, Problem

PIPELINE = "pipeline.yaml"


def require_new(folder: Path, stages: list[str]) -> None:
    """Raise ConfigError if one of the files to write exists."""
    names = (PIPELINE, *(f"{stage}.yaml" for stage in stages))
    if existing := [name for name in names if (folder / name).exists()]:
        remedy = f"has {', '.join(existing)} already: name another folder, since no file is overwritten"
        raise ConfigError([Problem("--output_dir", str(folder), remedy)])


def write_pipeline(folder: Path, settings: dict[str, StageSettings], title: str, output_dir: str) -> Path:
    """Write a pipeline and its stages into a folder and return the pipeline's file; existing files are not replaced.

    Args:
        settings: of each stage, in order.
        title: what the pipeline is for.
        output_dir: folder for the runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stage, chosen in settings.items():
        head = f"# {STAGES[stage].title}. All keys: hfkit {stage} --help\n"
        write_new(folder / f"{stage}.yaml", head + "".join(map(yaml_line, chosen.items())))
    path = folder / PIPELINE
    lines = [f"# {title}", f"# run it: hfkit run {path}", f"# look at its data: hfkit data check {path}"]
    lines += [f"output_dir: {in_yaml(output_dir)}", "stages:", *(f"  {stage}: {stage}.yaml" for stage in settings)]
    write_new(path, "\n".join(lines) + "\n")
    return path


def write_new(path: Path, text: str) -> None:
    """Write a new file."""
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:  # a full disk
            path.unlink()
            raise


def yaml_line(item: tuple[str, Setting]) -> str:
    """Return a key and its value as YAML, one line (for sources, one per source), with the reason as a comment."""
    key, setting = item
    comment = f"  # {setting.why}" if setting.why else ""
    if key == "datasets":
        return f"{key}:{comment}\n" + "".join(f"  - {in_yaml(entry)}\n" for entry in setting.value)
    return f"{key}: {in_yaml(setting.value)}{comment}\n"


class OneLineDumper(yaml.SafeDumper):
    """Writes text with line breaks in double quotes: in single quotes, YAML would need several lines."""


OneLineDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, '"' if "\n" in text else None)
)


def in_yaml(value: object) -> str:
    """Return a value as YAML on one line."""
    options = {"default_flow_style": True, "width": 10_000, "allow_unicode": True, "sort_keys": False}
    text = yaml.dump(value, Dumper=OneLineDumper, **options)
    return text.removesuffix("\n").removesuffix("\n...")
