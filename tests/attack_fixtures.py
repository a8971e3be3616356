"""Fixtures for tests of hostile inputs: commands that are watched while they read them.

A test of hostile inputs has the marker `hostile("CATEGORY")`, and each of its parameters is an input, which
`docs/guides/security.md` counts.
"""

import re
from pathlib import Path

import pytest
from forked_commands import Commands, Ran

SECRET = "what-stands-outside-of-the-folder"
SECONDS, BYTES = 20, 4 << 30
ESCAPES = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0e-\x1a\x7f]")
"""Control characters, except colors, tabs and line ends."""


@pytest.fixture(scope="session")
def commands():
    """The process that the commands are forks of."""
    with Commands() as started:
        yield started


@pytest.fixture
def canary(tmp_path) -> Path:
    """A file that hostile code would create."""
    return tmp_path / "code-has-run"


@pytest.fixture
def secret(tmp_path) -> Path:
    """A file outside the folders that a command may read."""
    path = tmp_path / "secret.txt"
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    return path


@pytest.fixture
def attack(commands, tmp_path, canary):
    """Run a command on hostile inputs, and assert that it is safe.

    It ends by itself within 20 seconds and 4 GB, without a traceback; it runs no code (`canary`), and prints neither
    text from outside the folder (`secret`) nor control characters.
    """

    def run(*argv: object, folder: Path = tmp_path) -> Ran:
        ran = commands.run(*argv, folder=folder, output=tmp_path / "output.txt", seconds=SECONDS)
        assert ran.status in (0, 1, 2) and ran.peak_bytes < BYTES, ran  # killed after SECONDS, it has another status
        assert "Traceback" not in ran.output, ran.output
        assert not canary.exists(), f"code has run: {ran.output}"
        assert SECRET not in ran.output and not ESCAPES.search(ran.output), ran.output
        return ran

    return run
