"""Common mistakes in YAML: the error says what to write instead."""

import pytest

from hfkit.core.yaml import parse_yaml, read_yaml

TABS, BACKSLASHES = "use spaces, not tabs", "in single quotes"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("a:\n\tb: 1\n", TABS),
        ("a:\n  - b\n\t- c\n", TABS),
        ('a: "C:\\Users\\x"\n', BACKSLASHES),
        ('a: "C:\\data"\n', BACKSLASHES),
    ],
)
def test_tabs_and_backslashes_have_a_remedy(text, advice, tmp_path):
    file, problems = tmp_path / "theirs.yaml", []
    file.write_text(text)
    assert read_yaml(str(file), problems) is None
    assert problems[0].remedy.endswith(advice)
    with pytest.raises(ValueError, match=advice):
        parse_yaml(text)


def test_other_mistakes_have_none(tmp_path):
    file, problems = tmp_path / "theirs.yaml", []
    file.write_text("a: b: c\n")
    assert read_yaml(str(file), problems) is None
    assert problems[0].remedy == "not valid YAML: mapping values are not allowed here"
