"""Names that file systems take and libraries do not, and the other way round; disks and caches that fail."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import write_rows

pytestmark = pytest.mark.hostile("names and disks")
ROWS = [{"text": f"Ann likes {colour}."} for colour in ("red", "blue", "green")] * 9
TOKENIZER = ("--vocab_size=300", "--datasets")

SLOW = pytest.mark.slow


@pytest.fixture
def rows(tmp_path) -> str:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a\nb\t ", id="line break", marks=SLOW),
        pytest.param("--config", id="dashes", marks=SLOW),
        pytest.param("100%s%(x)d{y}$HOME", id="formats", marks=SLOW),
        pytest.param("[red]a[/][/]*?:smile:", id="markup"),
        pytest.param("'a' \"b\" `c` \\", id="quotes", marks=SLOW),
        pytest.param("run@v1", id="revision", marks=SLOW),
        pytest.param("m" * 255, id="longest"),
    ],
)
def test_unusual_names_work(attack, tmp_path, rows, name):
    ran = attack("tokenizer", f"--output_dir={name}", *TOKENIZER, rows)
    assert ran.status == 0 and f"in {name}" in ran.output
    assert (tmp_path / name / "tokenizer.json").is_file()
    ran = attack("push", f"./{name}", "me/x", "--dry_run")
    assert ran.status == 0 and "tokenizer.json" in ran.output


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("x" * 256, "File name too long", id="long name"),
        pytest.param("ä" * 200, "File name too long", id="long in bytes", marks=SLOW),
        pytest.param("/".join(["d" * 200] * 25), "File name too long", id="long path", marks=SLOW),
        pytest.param("/".join(["d" * 99] * 40)[:3950], "choose a path of less than 3,840", id="no room for files"),
        pytest.param("a\0b", "null (byte|character)", id="null byte"),
        pytest.param("run-\udcff", "not valid UTF-8", id="not UTF-8"),
    ],
)
@pytest.mark.parametrize("verb", ["tokenizer", "merge"])
def test_names_that_cannot_be_written_are_refused(attack, tmp_path, rows, verb, name, reason):
    given = [f"--output_dir={name}", *TOKENIZER, rows] if verb == "tokenizer" else ["adapter", name]
    (tmp_path / "adapter").mkdir()
    before = {*tmp_path.iterdir()}
    ran = attack(verb, *given)
    assert ran.status in (1, 2) and re.search(reason, ran.output)
    assert {*tmp_path.iterdir()} - before == {tmp_path / "output.txt"}


def test_a_yaml_with_a_name_that_is_not_utf8_is_refused(attack, tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps({"output_dir": "a\ud800", "datasets": "rows.jsonl"}))
    ran = attack("tokenizer", "config.yaml")
    assert ran.status == 2 and "output_dir: 'a\\ud800' -> not valid UTF-8" in ran.output


def test_a_folder_that_is_not_utf8_is_refused(attack, tmp_path, rows):
    folder = tmp_path / "cwd-\udcff"
    folder.mkdir()
    ran = attack("tokenizer", "--output_dir=out", *TOKENIZER, rows, folder=folder)
    assert ran.status == 1 and "the path of the current folder" in ran.output and not (folder / "out").exists()


@pytest.mark.slow
def test_a_model_in_a_folder_that_is_not_utf8_is_refused(attack, tmp_path, sft_dir):
    """The link is a name as any other; what it leads to is not."""
    shutil.copytree(sft_dir, tmp_path / "bytes-\udcff")
    os.symlink(tmp_path / "bytes-\udcff", tmp_path / "link")
    ran = attack("merge", "link", "out")
    assert ran.status == 1 and "not valid UTF-8" in ran.output and not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["tokenizer", "merge"])
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("loop/out", id="loop of links", marks=SLOW),
        pytest.param("dangling", id="link to nowhere", marks=SLOW),
        pytest.param("rows.jsonl", id="file"),
        pytest.param("rows.jsonl/out", id="in a file"),
        pytest.param("/dev/full", id="device"),
        pytest.param("/proc/hfkit", id="no real disk", marks=SLOW),
    ],
)
def test_what_is_not_a_folder_is_named_and_left_alone(attack, tmp_path, rows, sft_dir, verb, path):
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nowhere", tmp_path / "dangling")
    before = {*os.listdir(tmp_path)}
    output = [f"--output_dir={path}", *TOKENIZER, rows] if verb == "tokenizer" else [sft_dir, path]
    ran = attack(verb, *output)
    named = path if "/" not in path[1:] else path.split("/")[0]
    assert ran.status in (1, 2) and Path(named).name in ran.output and re.search("folder|link", ran.output)
    assert {*os.listdir(tmp_path)} - before == {"output.txt"}
