"""Names of files: a path that does not exist is compared with the names next to it."""

import os

import pytest

from hfkit.core.names import MANY_FILES, did_you_mean
from hfkit.stages.checks.paths import missing_file_problem


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("rows.jsonl", "rows.jsonl.gz"),
        ("./data/pairz.json", "data/pairs.json"),
        ("other.csv", None),
        ("missing/rows.jsonl", None),
        ("data/secret", None),  # a hidden file
        ("a\0b/rows.jsonl", None),
    ],
)
def test_a_misspelt_path_names_the_one_that_was_meant(given, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("rows.jsonl.gz", "data/pairs.json", "data/.secret"):
        (tmp_path / name).write_text("")
    assert did_you_mean(given) == (f"; did you mean {meant}?" if meant else "")


def test_a_dataset_that_is_missing_names_it(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_text("")
    problem = missing_file_problem(os.path.join(tmp_path, "rows.jsonl"))
    assert f"did you mean {tmp_path / 'rows.jsonl.gz'}?" in problem.remedy


def test_the_names_of_a_folder_with_many_files_are_not_compared(tmp_path):
    for index in range(MANY_FILES + 1):
        (tmp_path / f"rows{index}.jsonl").write_text("")
    assert did_you_mean(str(tmp_path / "rowz1.jsonl")) == ""
