"""Validates the output folder and the chat template."""

import os
import re
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError

from hfkit.core.errors import Problem, reason


def folder_problems(config) -> list[Problem]:
    """Return problems of an output folder that cannot be created or written to."""
    path = Path(config.output_dir)
    existing = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    if config.output_dir and os.path.isdir(existing) and os.access(existing, os.W_OK):
        return []
    return [Problem("output_dir", config.output_dir, f"{existing} is not a folder that can be written to")]


def template_name(config) -> str | None:
    """Return the name of one of the tokenizer's own templates that a config chooses; None for a file or no choice."""
    chosen = getattr(config, "chat_template", None)
    is_file = chosen and (chosen.endswith(".jinja") or Path(chosen).name != chosen or Path(chosen).is_file())
    return None if is_file or not hasattr(config, "model_name_or_path") else chosen


def template_problems(config) -> list[Problem]:
    """Return problems of a chat template that cannot be read, or is not Jinja."""
    path = getattr(config, "chat_template", None)
    if path is None or template_name(config):  # loading the tokenizer finds the name
        return []
    try:
        template = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", Path(path).read_text(encoding="utf-8"))
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        return [Problem("chat_template", path, f"not Jinja: line {error.lineno}: {error.message}")]
    except (OSError, ValueError) as error:
        return [Problem("chat_template", path, f"cannot be read: {reason(error)}")]
    return []
