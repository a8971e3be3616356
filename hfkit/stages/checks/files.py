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


def template_problems(config) -> list[Problem]:
    """Return problems of a chat template that cannot be read, or is not Jinja."""
    path = getattr(config, "chat_template", None)
    is_name = path and not path.endswith(".jinja") and Path(path).name == path and not Path(path).is_file()
    if path is None or (is_name and hasattr(config, "model_name_or_path")):  # loading the tokenizer finds the name
        return []
    try:
        template = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", Path(path).read_text(encoding="utf-8"))
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        return [Problem("chat_template", path, f"not Jinja: line {error.lineno}: {error.message}")]
    except (OSError, ValueError) as error:
        return [Problem("chat_template", path, f"cannot be read: {reason(error)}")]
    return []
