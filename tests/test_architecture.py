"""The structure of the package that `make lint` does not check."""

import ast
import re

import pytest
from architecture import (
    LONGEST_FUNCTION,
    ROOT,
    SHARED_NAMES,
    calls_without_encoding,
    functions,
    import_graph,
    in_circles,
    indirect_imports,
    long_files,
    modules,
    modules_at_the_top,
    report,
    shared_names,
)


def test_no_module_imports_itself_through_others():
    assert in_circles(import_graph(modules())) == []


def test_an_import_cycle_through_a_function_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert in_circles(graph) == ["b", "c"]


def test_only_floors_are_at_the_top():
    assert modules_at_the_top(modules()) == ["__init__.py", "__main__.py", "cli.py"]


def test_a_name_is_imported_from_the_module_that_defines_it():
    assert indirect_imports(modules()) == []
    through = {"a.b": ast.parse("from a.c import x"), "a.c": ast.parse("x = 1"), "a.d": ast.parse("from a.b import x")}
    assert indirect_imports(through) == ["a.d: x"]


def test_a_name_has_one_meaning():
    assert shared_names(modules()).keys() == SHARED_NAMES.keys()
    assert len(SHARED_NAMES) <= 15


def test_functions_and_files_are_short():
    assert [where for lines, where in functions(modules()) if lines > LONGEST_FUNCTION] == []
    assert long_files() == []


def test_every_file_is_opened_as_utf8_or_as_bytes():
    assert calls_without_encoding(modules()) == []


@pytest.mark.parametrize(
    ("call", "is_found"),
    [
        ("open(path)", True),
        ("path.open()", True),
        ("path.open('a')", True),
        ("open(path, mode='w')", True),
        ("gzip.open(path, 'rt')", True),
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(path, 'rb')", False),
        ("path.open('ab')", False),
        ("gzip.open(path)", False),
        ("os.open(path, 0)", False),
        ("path.read_text(encoding='utf-8')", False),
        ("path.open(encoding='utf-8')", False),
    ],
)
def test_a_file_in_the_encoding_of_the_locale_is_seen(call, is_found):
    assert bool(calls_without_encoding({"a": ast.parse(call)})) == is_found


ACROSS = {"chaos", "docs", "security"}
"""Folders of tests that cover all floors."""


def test_every_floor_has_its_tests_and_its_line_in_the_architecture():
    floors = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("__")}
    tested = {path.parent.name for path in (ROOT.parent / "tests").glob("*/test_*.py")}
    text = (ROOT.parent / "docs" / "architecture.md").read_text().partition("## The repository")[0]
    documented = set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE))
    assert floors == tested - ACROSS == documented


def test_the_files_that_contributing_names_are_there():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    named = {path for path in re.findall(r"`([\w/]+\.(?:py|toml|md|yaml))`", text) if "/" in path}
    missing = [
        path for path in named if not (ROOT.parent / path).exists() and not re.search(r"\bmy(stage|verb)\b|NAME", path)
    ]
    assert named and missing == []


def test_the_script_reports_the_measurements():
    assert report().startswith("files in import circles: 0\nmodules at the top: 3")
