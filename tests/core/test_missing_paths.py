"""A path that does not exist is reported with the one that was probably meant."""

import pytest

from hfkit.core.missing_paths import no_such


@pytest.mark.parametrize(
    ("kind", "path", "meant"),
    [
        ("file", "data/train.jsonl", "data/train.jsonl.gz"),
        ("file", "data/rwos.csv", "data/rows.csv"),
        ("file", "data/Rows.csv", "data/rows.csv"),
        ("file", "dta/rows.csv", "data/rows.csv"),
        ("file", "./data/row.csv", "data/rows.csv"),
        ("folder, and not a Hub id", "runs/stf", "runs/sft"),
        ("folder in runs, and HF_HUB_OFFLINE is set", "runs/stf", "runs/sft"),
        ("file", "data/poems.txt", None),
        ("file", "elsewhere/rows.csv", None),
        ("file", "runs/stf", None),
        ("folder", "data/rwos.csv", None),
        ("file", "data/rows.csv/rows.csv", None),
        ("file", "data/secret", None),
        ("file", "a\0b/rows.csv", None),
        ("file", "", None),
    ],
)
def test_a_similar_path_of_the_same_kind_is_suggested(kind, path, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("data/train.jsonl.gz", "data/rows.csv", "runs/sft/hfkit.json", "data/.secret"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert no_such(kind, path) == f"no such {kind}" + (f"; did you mean {meant}?" if meant else "")
