"""Translates configs of other tools, as `hfkit init --from` does."""

import pytest

from hfkit.commands.init.foreign import read_foreign
from hfkit.commands.init.translate import translate_config


@pytest.fixture
def translated(tmp_path):
    """translated(text, goal) -> what became of a config."""

    def of(text: str, goal: str | None = None):
        file = tmp_path / "theirs.yaml"
        file.write_text(text)
        return translate_config(read_foreign(str(file), goal))

    return of


def values(found) -> dict:
    return {key: one.value for key, one in found.settings.items()}
