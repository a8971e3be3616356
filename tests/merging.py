"""Merged models for the tests that take one, and copies of adapters for those that break one."""

import json
import shutil
from pathlib import Path

import pytest

from hfkit.commands.merge import merge

IGNORED = shutil.ignore_patterns("checkpoint-*")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def copy(tmp_path):
    return lambda path: Path(shutil.copytree(path, tmp_path / f"copy-{path.name}", ignore=IGNORED))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("merged")


@pytest.fixture(scope="module")
def merged(request, folder):
    """merged(name, dtype) -> the merged model of an adapter fixture, made once."""

    def make(name: str, dtype: str = "bfloat16") -> Path:
        out = folder / f"{name}-{dtype}"
        return out if out.exists() else merge(str(request.getfixturevalue(name)), out, dtype)

    return make
