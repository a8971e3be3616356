"""`hfkit data push` makes a dataset repository that `load_dataset` and hfkit read, and refuses incomplete data."""

import gzip
import json
from pathlib import Path

import pytest
from conftest import ROWS, write_rows
from hub_server import cards
from huggingface_hub import DatasetCard

from hfkit.cli import main
from hfkit.data.cards import load_card
from hfkit.hub.cards.hand_edits import with_edit_hash
from hfkit.hub.dataset_files import subset_and_split

PAIRS = ROWS["pairs"]
LOAD = """
from datasets import load_dataset
answer = {{split: load_dataset("ann/{0}", {1!r}, split=split).to_list() for split in {2!r}}}
"""


READ = """
from hfkit.data.files import read_rows
answer = read_rows({{"path": {0!r}, "split": {1!r}}})[0].to_list()
"""


@pytest.fixture(scope="module")
def ann(user_of):
    return user_of("ann")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pairs to train and to test on, and a card by hand."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_rows(folder / "pairs_train.jsonl", PAIRS[:20])
    write_rows(folder / "pairs_test.jsonl", PAIRS[20:])
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# What they like\n\nAsked of friends.\n")
    (folder / "notes.md").write_text("mine")
    (folder / ".env").write_text("HF_TOKEN=hf_" + "b" * 34)
    return folder


def repo_of(hub_server, name: str):
    return hub_server.store.repo(f"ann/{name}", "dataset")


def card_on_hub(hub_server, name: str) -> str:
    return repo_of(hub_server, name).files()["README.md"].decode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rows.jsonl", ("rows", "train")),
        ("train.jsonl.gz", ("default", "train")),
        ("pairs_test.jsonl", ("pairs", "test")),
        ("eval-pairs.csv", ("pairs", "test")),
        ("pairs/dev.parquet", ("pairs", "validation")),
        ("data/train-00000-of-00002.parquet", ("default", "train")),
        ("a/data/my.set.train.txt", ("a-my-set", "train")),
        ("x.test.jsonl", ("x", "test")),
        ("v1.5_dev.json.gz", ("v1-5", "validation")),
        ("testament.txt", ("testament", "train")),
    ],
)
def test_subset_and_split_follow_from_the_file_name(name, expected):
    assert subset_and_split(name) == expected


def test_a_folder_is_pushed_in_one_commit_and_read_back(ann, hub_server, folder):
    pushed = ann.hfkit("data", "push", folder, "ann/likes", "--private", "--message", "friends")
    assert pushed.status == 0, pushed.stderr
    repo = repo_of(hub_server, "likes")
    assert [commit.title for commit in repo.history()] == ["friends", "initial commit"]
    assert {*repo.files()} == {".gitattributes", "README.md", "pairs_train.jsonl", "pairs_test.jsonl"}
    assert repo.private
    loaded = ann.python(LOAD.format("likes", None, ["train", "test"]))
    assert loaded == {"train": PAIRS[:20], "test": PAIRS[20:]}
    assert ann.python(READ.format("ann/likes", "test")) == PAIRS[20:]
    text = card_on_hub(hub_server, "likes")
    assert cards.faults_of(text, "dataset")[0] == []
    card = DatasetCard(text)
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert (card.data.task_categories, card.data.size_categories) == (["text-generation"], ["n<1K"])
    assert card.data.tags == ["hfkit", "preference"]
    assert card.text.strip().startswith("# What they like\n\nAsked of friends.\n\n<!-- hfkit: generated")
    assert "| default | test | 12 | `prompt`, `chosen`, `rejected` | `pairs_test.jsonl` |" in text
    code = text.partition("```python\n")[2].partition("```")[0]
    assert 'load_dataset("ann/likes", split="train")' in code
    imports = "from huggingface_hub import DatasetCard\nfrom hfkit.hub.repo_checks import validate_card\n"
    ann.python(f"{imports}validate_card(DatasetCard.load('ann/likes'))\n{code}")
    assert "datasets: [{path: ann/likes}]\neval_datasets: [{path: ann/likes, split: test}]" in text

    again = ann.hfkit("data", "push", folder, "likes")
    assert "nothing to upload" in again.stdout
    assert len(repo.history()) == 2
    # edited on the Hub, then more rows here
    edited = hub_server.store.blob("README.md", f"{text}\nBy the way.\n".encode())
    repo.commit("main", {**repo.at("main").files, "README.md": edited}, "Update README.md", "", "ann")
    write_rows(folder / "pairs_test.jsonl", PAIRS[16:])
    assert ann.hfkit("data", "push", folder, "ann/likes").status == 0
    text = card_on_hub(hub_server, "likes")
    assert text.endswith("By the way.\n")
    assert "| default | test | 16 |" in text
    assert (folder / "README.md").read_text() == with_edit_hash(text)


def test_different_columns_make_another_subset_and_gzip_and_folders_are_read(ann, hub_server, tmp_path):
    (tmp_path / "talk").mkdir()
    write_rows(tmp_path / "talk" / "train.jsonl", ROWS["turns"])
    with gzip.open(tmp_path / "ask.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in ROWS["prompts"])
    write_rows(tmp_path / "ask_test.jsonl", [{**row, "name": "Ann"} for row in ROWS["prompts"][:3]])
    pushed = ann.hfkit("data", "push", tmp_path, "ann/several")
    assert pushed.status == 0, pushed.stderr
    configs = DatasetCard(card_on_hub(hub_server, "several")).data.configs
    assert {config["config_name"] for config in configs} == {"ask", "ask_test", "talk"}
    assert ann.python(LOAD.format("several", "ask", ["train"])) == {"train": ROWS["prompts"]}
    assert ann.python(LOAD.format("several", "talk", ["train"])) == {"train": ROWS["turns"]}
    assert len(ann.python(LOAD.format("several", "ask_test", ["test"]))["test"]) == 3
    assert repo_of(hub_server, "several").private  # a new one is, unless it is asked to be public
    assert "No license is stated" in card_on_hub(hub_server, "several")


CARD = """---
license: cc-by-4.0
hfkit:
  path: {path}
  files: {{train: a.jsonl, test: b.jsonl}}
  form: preference
  columns: {{prompt: q, chosen: good, rejected: bad}}
---

# Friends

**Source.** Asked.
"""


def test_the_files_of_a_data_card_are_pushed_and_the_pushed_card_is_a_data_card(ann, hub_server, tmp_path):
    rows = [{"q": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in PAIRS]
    write_rows(tmp_path / "a.jsonl", rows[:20])
    write_rows(tmp_path / "b.jsonl", rows[20:])
    write_rows(tmp_path / "c.jsonl", rows)
    card = tmp_path / "friends.md"
    card.write_text(CARD.format(path=tmp_path))
    pushed = ann.hfkit("data", "push", card, "ann/friends", "--public")
    assert pushed.status == 0, pushed.stderr
    repo = repo_of(hub_server, "friends")
    assert not repo.private
    assert {*repo.files()} == {".gitattributes", "README.md", "a.jsonl", "b.jsonl"}
    text = card_on_hub(hub_server, "friends")
    assert str(tmp_path) not in text
    assert "**Source.** Asked." in text
    assert card.read_text() == CARD.format(path=tmp_path)
    (tmp_path / "README.md").write_text(text)
    recipe = load_card(str(tmp_path / "README.md")).recipe
    assert (recipe.path, recipe.files, recipe.form) == (
        "ann/friends",
        {"train": "a.jsonl", "test": "b.jsonl"},
        "preference",
    )
    assert ann.python(LOAD.format("friends", None, ["test"])) == {"test": rows[20:]}
    assert "nothing to upload" in ann.hfkit("data", "push", card, "ann/friends").stdout


def test_a_dry_run_lists_files_and_sizes(folder, capsys):
    assert main(["data", "push", str(folder), "ann/dry", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert f"pairs_train.jsonl │ {(folder / 'pairs_train.jsonl').stat().st_size:,} │" in " ".join(out.split())
    assert "left out: .env, notes.md" in out


# What is refused


def broken(folder: Path) -> None:
    (folder / "pairs_test.jsonl").write_text('{"a": 1}\n{"a": \n')


def token(folder: Path) -> None:
    with gzip.open(folder / "more.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"text": "hf_" + "a" * 34}) + "\n")


def token_in_the_middle(folder: Path) -> None:
    write_rows(folder / "more.jsonl", [{"text": "the log:\nsk-" + "a" * 34}])


def link(folder: Path) -> None:
    (folder / "more.jsonl").symlink_to(folder / "pairs_test.jsonl")


def run(folder: Path) -> None:
    (folder / "hfkit.json").write_text("{}")


def saved(folder: Path) -> None:
    (folder / "dataset_dict.json").write_text("{}")


def configs(folder: Path) -> None:
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: rows/*.jsonl\n---\n")


def empty(folder: Path) -> None:
    for file in folder.glob("*.jsonl"):
        file.unlink()


def front_matter(folder: Path) -> None:
    (folder / "README.md").write_text("---\na: [\n---\n")


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (broken, "pairs_test.jsonl: 'not readable' -> cannot read the dataset"),
        (token, "more.jsonl.gz: 'rows 1 to 1' -> looks like a token or key"),
        (token_in_the_middle, "more.jsonl: 'rows 1 to 1' -> looks like a token or key"),
        (link, "'not a regular file' -> replace it with a copy"),
        (run, "'a run, not a dataset' -> push it with `hfkit push"),
        (saved, "'written by save_to_disk' -> write each split to a file with to_parquet"),
        (configs, "README.md: configs: 'rows/*.jsonl' -> matches no data file"),
        (empty, "'no data' -> expected files that end in .jsonl"),
        (front_matter, "the metadata of README.md cannot be read"),
    ],
)
def test_problems_of_a_folder_are_reported(folder, capsys, spoil, reported):
    spoil(folder)
    assert main(["data", "push", str(folder), "ann/no", "--dry_run"]) == 2
    err = capsys.readouterr().err
    assert reported in err
    assert "a" * 34 not in err


@pytest.mark.parametrize(
    ("source", "reported"),
    [
        ("nowhere", "there is no data card 'nowhere'"),
        ("{}/hub.md", "the rows of hub are on the Hub, at ann/x: there is nothing to push"),
        ("{}/gone.md", "the data card gone names it"),
    ],
)
def test_a_data_card_without_local_files_is_reported(tmp_path, capsys, source, reported):
    (tmp_path / "gone.md").write_text(CARD.format(path=tmp_path))
    on_hub = CARD.format(path="ann/x").replace("files: {train: a.jsonl, test: b.jsonl}", "splits: {train: train}")
    (tmp_path / "hub.md").write_text(on_hub)
    assert main(["data", "push", source.format(tmp_path), "ann/no", "--dry_run"]) != 0
    assert reported in capsys.readouterr().err


def test_a_public_repository_refuses_a_private_push(ann, hub_server, folder):
    hub_server.store.add("ann/open", type="dataset")
    pushed = ann.hfkit("data", "push", folder, "ann/open", "--private")
    assert pushed.status == 2
    assert "is public, not private" in pushed.stderr
    assert {*repo_of(hub_server, "open").files()} == {".gitattributes"}
