"""Merged models, and copies of adapters that tests can change."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from hfkit.commands.merge import merge

IGNORED = shutil.ignore_patterns("checkpoint-*")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def no_weights(monkeypatch):
    """Forbid loading the weights of a model; names and shapes may be read, onto the meta device."""
    load = PreTrainedModel.from_pretrained.__func__

    def guarded(cls, *args, **options):
        assert options.get("device_map") == "meta", "the weights of a model were loaded"
        return load(cls, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(guarded))


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
