"""Writes reference/commands.md: the real `--help` of every verb of hfkit."""

import io
import os
from contextlib import redirect_stdout, suppress

from hfkit.cli import DATA_VERBS, VERBS, main
from hfkit.config.registry import STAGES

INTRODUCTION = """# Commands

Each stage reads a YAML file and flags. Each flag is a [config key](keys.md). `HFKIT_DEBUG=1` before a command adds the
traceback to an error.

"""
CONFIGURED = (*STAGES, "evaluate", "arena")
"""The verbs whose flags are the keys of a config."""


def commands_page() -> str:
    """Return the page as Markdown."""
    data = [f"data {verb}" for verb in DATA_VERBS]
    verbs = [*STAGES, *(one for verb in VERBS for one in (data if verb == "data" else [verb]))]
    return INTRODUCTION + "\n".join(section(verb) for verb in ("", *verbs))


def section(verb: str) -> str:
    """Return heading and help of a verb; a link to the keys replaces flags that keys.md explains."""
    text, keys = help_of(verb), ""
    if verb in CONFIGURED:
        text = text.partition("\noptions:\n")[0]
        keys = f"\nFlags: [the keys of `{verb}`](keys.md#{verb}), and `--config FILE`.\n"
    return f"## `hfkit {verb}".rstrip() + f"`\n\n```text\n{text.strip()}\n```\n{keys}"


def help_of(verb: str) -> str:
    """Return what `hfkit VERB --help` prints."""
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}  # what argparse reads
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        main([*verb.split(), "--help"])
    return shown.getvalue()
