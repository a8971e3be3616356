"""The problems of a config of `hfkit label`."""

import pytest
from conftest import write_rows

from hfkit.commands.label.checks import problems_of
from hfkit.config.labeling import LabelConfig
from hfkit.config.parsing import load_config
from hfkit.core.errors import ConfigError


def config_of(tmp_path, **changes) -> LabelConfig:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Yes?", "replies": ["yes", "no"]}])
    return load_config(LabelConfig, {"datasets": rows, "output_dir": str(tmp_path / "labels"), **changes}, problems_of)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"host": "0.0.0.0"}, "host", "add password_file, or set HFKIT_LABEL_PASSWORD"),
        ({"host": "192.0.2.1"}, "host", "add password_file"),
        ({"host": "example.org"}, "host", "add password_file"),
        ({"password_file": "/nowhere"}, "password_file", "cannot be read"),
        ({"port": 70_000}, "port", "from 0 to 65535"),
        ({"overlap": 0}, "overlap", "must be above 0"),
        ({"guide": "/nowhere.md"}, "guide", "cannot be read"),
        ({"flags": ["a", "a"]}, "flags", "different names"),
        ({"judge": "function"}, "reward_function", "missing"),
        ({"reward_function": "a:b"}, "reward_function", "has no effect"),
        ({"judge": "/nowhere"}, "judge", ""),
        ({"datasets": "/nowhere.jsonl"}, "datasets[0].path", "no such file"),
        ({"seed": -1}, "seed", ""),
    ],
)
def test_problems_are_reported_before_anything_is_loaded(tmp_path, monkeypatch, changes, key, words):
    monkeypatch.delenv("HFKIT_LABEL_PASSWORD", raising=False)
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, **changes)
    (problem,) = error.value.problems
    assert problem.key == key and words in problem.remedy


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [("long enough", 0o640, "chmod 600"), ("", 0o600, "it is empty"), ("short", 0o600, "8 characters")],
)
def test_a_password_file_must_be_private_and_hold_a_password(tmp_path, text, mode, words):
    secret = tmp_path / "password"
    secret.write_text(text)
    secret.chmod(mode)
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, host="0.0.0.0", password_file=str(secret))
    (problem,) = error.value.problems
    assert problem.key == "password_file" and words in problem.remedy
    secret.write_text("long enough")
    secret.chmod(0o600)
    assert config_of(tmp_path, host="0.0.0.0", password_file=str(secret)).host == "0.0.0.0"
