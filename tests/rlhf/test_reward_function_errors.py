"""A reward function that raises is blamed with the line of the user's file."""

import sys

import pytest

from hfkit.core.errors import HfkitError
from hfkit.rlhf.reward_functions import call_reward_function, check_reward_function, import_reward_function

CODE = """import json

def f(prompts, replies, **columns):
    return [score(reply) for reply in replies]

def score(reply):
    return json.loads(reply)["score"]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that only this test imports and returns its path and name."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"rewards_{tmp_path.name}"

    def write(code: str):
        (tmp_path / f"{name}.py").write_text(code)
        return tmp_path / f"{name}.py", name

    yield write
    sys.modules.pop(name, None)


def test_the_last_line_of_the_user_is_shown_even_if_a_library_raised(module):
    path, name = module(CODE)
    with pytest.raises(HfkitError) as error:
        call_reward_function(f"{name}:f", import_reward_function(f"{name}:f"), ["a"], ["not JSON"], {})
    assert f"reward function {name}:f raised JSONDecodeError" in str(error.value)
    assert str(error.value).endswith(f', in {path}, line 7: return json.loads(reply)["score"]')


def test_a_module_that_cannot_be_imported_shows_its_line(module):
    path, name = module("WEIGHT = 1\nLIMIT = WEIGHT / 0\n")
    with pytest.raises(HfkitError, match=f"ZeroDivisionError: .*, in {path}, line 2: LIMIT = WEIGHT / 0"):
        import_reward_function(f"{name}:f")


@pytest.mark.parametrize(
    ("code", "columns", "takes"),
    [
        ("def f(completions, **columns):\n    return [0.0]\n", [], r"\(completions, \*\*columns\)"),
        ("def f(completions, answer):\n    return [0.0]\n", [], r"\(completions, answer\)"),  # TRL calls it by name
        ("def f(prompts, replies, answer):\n    return [0.0]\n", [], r"\(prompts, replies, answer\)"),
        ("def f(prompts, replies):\n    return [0.0]\n", ["answer"], r"\(prompts, replies\)"),
    ],
)
def test_a_function_with_other_arguments_is_refused_before_it_is_called(module, code, columns, takes):
    _, name = module(code)
    with pytest.raises(HfkitError, match=rf"{name}:f takes {takes}, but is called with \(prompts, replies.*\): define"):
        check_reward_function(f"{name}:f", columns)


def test_a_module_that_does_not_exist_says_how_to_name_one():
    with pytest.raises(HfkitError, match=r"No module named 'no_such'; write it as package\.module:function"):
        import_reward_function("no_such:f")


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        ("sys.exit(0)", "raised SystemExit: 0, in .*, line 3"),
        ("return (1 / 0 for _ in replies)", "raised ZeroDivisionError: .*, in .*, line 3"),
        ("return [1.0]", "returned 1 numbers for 2 responses"),
        ("return [0.0, float('nan')]", "returned nan for response 1, not a finite number"),
        ("return [0.0, 1e300]", "returned 1e\\+300 for response 1, not a finite number"),
    ],
)
def test_a_function_that_returns_no_scores_is_blamed(module, body, reported):
    _, name = module(f"import sys\ndef f(prompts, replies, **columns):\n    {body}\n")
    with pytest.raises(HfkitError, match=f"reward function {name}:f {reported}"):
        call_reward_function(f"{name}:f", import_reward_function(f"{name}:f"), ["a", "b"], ["x", "y"], {})


def test_a_module_that_exits_is_an_error(module):
    _, name = module("import sys\nsys.exit(0)\n")
    with pytest.raises(HfkitError, match=r"SystemExit: 0, in .*, line 2"):
        import_reward_function(f"{name}:f")
