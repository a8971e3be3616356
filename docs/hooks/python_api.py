"""Writes reference/python.md: the public names of hfkit, whose docstrings mkdocstrings reads without importing them."""

import hfkit
from hfkit import rlhf
from hfkit.config.registry import STAGES

INTRODUCTION = """# Python API

Names are attributes of `hfkit` unless a module is given. [Python](../guides/python.md) shows how to use them.

## Stages

A stage is a function `hfkit.STAGE(config=None, **keys)` that returns the folder of the run, as a `Path`.

- `config` is a config object, a mapping or the path of a YAML file. Without it, `keys` must have all required keys.
- `keys` replace the keys of `config`.
- `hfkit.core.errors.ConfigError` lists every problem of the config. It is raised before anything is loaded.

| function | what it does | config | keys |
|---|---|---|---|
"""


def python_page() -> str:
    """Return the page as Markdown, with a directive of mkdocstrings for each name."""
    page = INTRODUCTION
    for name, spec in STAGES.items():
        page += f"| `hfkit.{name}` | {spec.help} | `hfkit.{spec.config_class.__name__}` | [keys](keys.md#{name}) |\n"
    page += "\n`hfkit.train_tokenizer` is another name of `hfkit.tokenizer`.\n\n## Functions and classes\n"
    for name, (module, attribute) in hfkit._LOCATIONS.items():
        if module != "hfkit.stages.entry_points":
            page += directive(f"hfkit.{name}", f"{module}.{attribute}")
    page += "\nIts attributes are the [keys of a dataset entry](keys.md#dataset-entries).\n"
    page += "\n## Trainers\n\nThe module `hfkit.rlhf` has the trainers and their arguments, for use without configs.\n"
    for name, module in sorted(rlhf.MODULES.items(), key=lambda item: item[0].endswith("Arguments")):
        page += directive(f"hfkit.rlhf.{name}", f"{module}.{name}")
    page += "\n## Errors\n"
    for name in ("HfkitError", "ConfigError", "Problem"):
        page += directive(f"hfkit.core.errors.{name}", f"hfkit.core.errors.{name}")
    return page


def directive(shown: str, path: str) -> str:
    """Return the directive that explains an object under the name that users import."""
    return f"\n::: {path}\n    options:\n      heading: {shown}\n      toc_label: {shown.removeprefix('hfkit.')}\n"
