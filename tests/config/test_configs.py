"""Every shipped YAML is valid for its stage."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from hfkit.config.fields import OpenLength
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES
from hfkit.config.stages import SFTConfig
from hfkit.core.errors import ConfigError
from hfkit.stages.checks.stage import problems_of
from hfkit.stages.pipeline_file import is_pipeline, read_pipeline

ROOT = Path(__file__).parents[2]
LAUNCHES = ROOT / "configs" / "accelerate"
"""Files for `accelerate launch`: see `test_accelerate_configs.py`."""
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.y*ml") if path.parent != LAUNCHES)
COUNT = 51
PARTS = ROOT / "configs" / "recipes" / "base"
"""Files of recipes that are only part of a config: `tests/commands/test_recipes.py` parses whole configs."""


def test_none_is_left_out():
    command = ["find", "configs", "-name", "*.yaml", "-not", "-path", "configs/accelerate/*"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert sorted(str(path.relative_to(ROOT)) for path in CONFIGS) == sorted(listed.split())
    assert len(CONFIGS) == COUNT


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.parent != PARTS], ids=lambda path: str(path.relative_to(ROOT / "configs"))
)
def test_a_shipped_config_is_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if is_pipeline(yaml.safe_load(path.read_text())):
        assert read_pipeline(path).stages.keys() <= STAGES.keys()
        return
    given_by_the_pipeline = {given.key for given in STAGES[path.stem].inputs}
    problems = []
    try:
        load_config(STAGES[path.stem].config_class, path, problems_of, output_dir="runs/here")
    except ConfigError as error:
        problems = [problem for problem in error.problems if problem.key not in given_by_the_pipeline]
    # the world's files exist only after the quickstart
    assert [str(problem) for problem in problems if not str(problem.value).startswith("runs/quickstart/world")] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_shipped_config_has_no_private_path(path):
    text = path.read_text()
    assert not any(part in text for part in ("/home/", "/work/", "/tmp/", "~"))
    assert isinstance(yaml.safe_load(text), dict)


def test_a_length_that_is_not_set_is_written_as_a_number():
    config = SFTConfig(model_name_or_path="base", output_dir="out")
    assert isinstance(config.max_length, OpenLength)
    assert yaml.safe_load(yaml.safe_dump({"max_length": config.max_length})) == {"max_length": 1024}
    assert json.loads(json.dumps(config.max_length)) == 1024
