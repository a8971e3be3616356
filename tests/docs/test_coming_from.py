"""The tables of docs/coming_from/ say what hfkit answers to the keys and verbs of other tools."""

import re
from dataclasses import fields

import pytest

from docs.blocks import ROOT
from hfkit.config.fields import REFUSED, DatasetEntry
from hfkit.config.other_tools import table
from hfkit.config.registry import STAGES

PAGES = sorted((ROOT / "docs" / "coming_from").glob("*.md"))
KEYS = {one.name for spec in STAGES.values() for one in fields(spec.config_class)}
KEYS |= {one.name for one in fields(DatasetEntry)}


def read_rows(page) -> list[list[str]]:
    """Return the cells of the rows of all tables of a page, without their headings."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_there_is_a_page_for_each_tool():
    assert [page.stem for page in PAGES] == ["axolotl", "llamafactory", "trl", "unsloth"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_row_says_what_hfkit_answers(page):
    rows, answers = read_rows(page), table()
    assert len(rows) >= 10
    for name, *cells in rows:
        name = name.strip("`")
        if len(cells) == 1:
            assert cells == [answers["verbs"][name]]
            continue
        entry = answers["keys"].get(name) or {"say": REFUSED["all"][name]}
        assert re.findall(r"`(\w+)`", cells[0]) == entry.get("use", []), name
        assert cells[1] == entry.get("say", ""), name


def test_the_table_names_keys_that_exist():
    named = {key for entry in table()["keys"].values() for key in entry.get("use", ())}
    assert named - KEYS == set()
