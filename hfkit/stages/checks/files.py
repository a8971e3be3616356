"""Validates the output folder and the chat template."""

import os
from pathlib import Path

from hfkit.core.errors import Problem, reason
from hfkit.core.files import read_text
from hfkit.core.missing_paths import no_such
from hfkit.core.names import folder_name_fault
from hfkit.data.built_in_templates import BUILT_IN_TOKENS
from hfkit.data.template_source import template_fault
from hfkit.stages.checks.paths import variable_remedy


def folder_problems(config) -> list[Problem]:
    """Return problems of an output folder that cannot be created or written to."""
    path = Path(config.output_dir)
    if remedy := variable_remedy(str(config.output_dir)):
        return [Problem("output_dir", config.output_dir, remedy)]
    if fault := folder_name_fault(path):
        return [Problem("output_dir", config.output_dir, fault)]
    if path.is_symlink() and not path.is_dir():
        return [Problem("output_dir", config.output_dir, "a broken link: remove it")]
    existing = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    if config.output_dir and os.path.isdir(existing) and os.access(existing, os.W_OK):
        return []
    return [Problem("output_dir", config.output_dir, f"{existing} is not a writable folder")]


def template_name(config) -> str | None:
    """Return the name of one of the tokenizer's own templates that a config chooses; None for a file or no choice."""
    chosen = getattr(config, "chat_template", None)
    is_file = chosen and (chosen.endswith(".jinja") or Path(chosen).name != chosen or Path(chosen).is_file())
    return None if is_file or not hasattr(config, "model_name_or_path") else chosen


def template_problems(config) -> list[Problem]:
    """Return problems of a chat template that cannot be read, or is not Jinja."""
    path = getattr(config, "chat_template", None)
    is_built_in = path in BUILT_IN_TOKENS and not Path(path).is_file()
    if path is None or is_built_in or template_name(config):  # loading the tokenizer reports an unknown name
        return []
    try:
        fault = template_fault(read_text(Path(path))) if Path(path).is_file() else no_such("file", path)
    except (OSError, ValueError) as error:
        fault = f"cannot be read: {reason(error)}"
    return [Problem("chat_template", path, fault)] if fault else []
