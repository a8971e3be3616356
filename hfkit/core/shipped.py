"""Finds the files that ship with hfkit besides its code: data cards and configs."""

from pathlib import Path


def shipped_folder(name: str) -> Path:
    """Return a folder that ships with hfkit, `data_cards` or `configs`.

    In an installation it is inside the package (see pyproject.toml), in a checkout next to it.
    """
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
