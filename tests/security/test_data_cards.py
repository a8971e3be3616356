"""Data cards and folders of unknown origin: code, URLs, files outside of the folder, special files, YAML bombs."""

import json
import os
import pickle
import re
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

ROWS = "".join(json.dumps({"text": f"Ann likes {number} colours."}) + "\n" for number in range(20))
SLOW = pytest.mark.slow
CHECK = ("data", "check", "--stage", "tokenizer", "--output_dir", "out", "--datasets")
BUILDER = "the name of a builder of `datasets`"
URL = "hfkit reads no URLs outside the Hub"
OUTSIDE = "outside its folder"
WITHIN = "name a file in"
BOMB = "HFKIT_MAX_YAML_VALUES"
NO_FILE = "is not a file"


class Code:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def card(path: str, front: str = "") -> str:
    """Return a data card whose rows are those of `path`, with more lines in its block."""
    return f"---\nlicense: mit\nhfkit:\n  path: {path}\n  form: text\n  columns: {{text: text}}\n{front}---\n# Card\n"


def files(name: str) -> str:
    """Return the line of a card that names its file."""
    return f"  files: {{train: {json.dumps(name)}}}\n"


def bomb(levels: int = 9) -> str:
    """Return the lines of a YAML mapping in which each key holds the one before ten times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.hostile("data cards")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(card("pandas", files("evil.pkl")), BUILDER, id="pandas-and-a-pickle"),
        pytest.param(card("sql", files("evil.pkl")), BUILDER, id="sql", marks=SLOW),
        pytest.param(card("webdataset", files("evil.pkl")), BUILDER, id="webdataset", marks=SLOW),
        pytest.param(card("generator", files("evil.pkl")), BUILDER, id="generator"),
        pytest.param(card("pandas", "  splits: {train: train}\n"), BUILDER, id="pandas-on-the-current-folder"),
        pytest.param(card("json", "  splits: {train: train}\n"), BUILDER, id="json-on-the-current-folder"),
        pytest.param(card("json", files("https://127.0.0.1:9/rows.jsonl")), URL, id="url"),
        pytest.param(card("user/data", files("http://127.0.0.1:9/rows.jsonl")), URL, id="url-beside-a-hub-id"),
        pytest.param(
            card("json", files("zip://rows.jsonl::http://127.0.0.1:9/x.zip")), URL, id="url-in-a-chain", marks=SLOW,
        ),
        pytest.param(card("json", files("file:///etc/passwd")), URL, id="url-of-a-file"),
        pytest.param(card("json", files("ftp://127.0.0.1:9/rows.jsonl")), URL, id="ftp", marks=SLOW),
        pytest.param(card("json", files("hf://datasets/a/b/x.zip::file://secret.txt")), URL, id="chain-from-the-hub"),
        pytest.param(card("text", files("../secret.txt")), WITHIN, id="parent-folder"),
        pytest.param(card("text", files("x/../../secret.txt")), WITHIN, id="parent-folder-within"),
        pytest.param(card("text", files("../*.txt")), WITHIN, id="pattern-of-the-parent-folder", marks=SLOW),
        pytest.param(card("text", files("/etc/passwd")), WITHIN, id="absolute-path"),
        pytest.param(card("text", files("~/secret.txt")), WITHIN, id="home", marks=SLOW),
        pytest.param(card("text", files("link.txt")), OUTSIDE, id="link-to-outside"),
        pytest.param(card(".", files("link.txt")), OUTSIDE, id="link-to-outside-in-a-folder", marks=SLOW),
        pytest.param(card(".", files("*.txt")), NO_FILE, id="pattern"),
        pytest.param(card(".", files("pipe.jsonl")), NO_FILE, id="pipe"),
        pytest.param(card(".", files("loop.jsonl")), NO_FILE, id="link-to-itself"),
        pytest.param(card("script.py", "  splits: {train: train}\n"), r"script\.py", id="script"),
        pytest.param(card("json", bomb().replace("a", "  a", 1).replace("\na", "\n  a")), BOMB, id="aliases"),
        pytest.param(f"---\n{bomb()}---\n", BOMB, id="aliases-beside-the-block", marks=SLOW),
        pytest.param(f"---\na: &a [*a]\n{card('json')[4:]}", "line 2 contains itself", id="alias-of-itself"),
        pytest.param(f"---\na: {'[' * 5000}\n---\n", "HFKIT_MAX_DEPTH", id="deep", marks=SLOW),
        pytest.param(f"---\na: {'9' * 200_000}e\n---\n", "has no hfkit: block", id="digits", marks=SLOW),
        pytest.param(f"---\n{'a: b' * 500_000}\n---\n", "HFKIT_MAX_YAML_BYTES", id="long-metadata"),
        pytest.param(card("\"\\e]0;x\\a\\e[2J\"", files("x.jsonl")), r"\\x1b\]0;x\\x07", id="escape-codes"),
        pytest.param("---\nhfkit: !!python/object/apply:os.mkdir [code-has-run]\n---\n", "python/object", id="tag"),
        pytest.param("---\n\x00\n---\n", "cannot be read", id="nul"),
    ],
)  # fmt: skip
def test_a_card_that_attacks_is_refused(attack, tmp_path, canary, secret, text, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "card.md").write_text(text)
    (folder / "evil.pkl").write_bytes(pickle.dumps(Code(canary)))
    (folder / "script.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    (folder / "link.txt").symlink_to(secret)
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    ran = attack(*CHECK, "card.md", folder=folder)
    assert ran.status in (1, 2) and re.search(message, ran.output), ran


def test_a_card_is_a_file_of_a_limited_size(attack, tmp_path):
    (tmp_path / "folder.md").mkdir()
    assert "there is no data card 'folder.md'" in attack(*CHECK, "folder.md").output
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(5 << 30)
    assert "HFKIT_MAX_TEXT_BYTES" in attack(*CHECK, "huge.md").output


NAMED = "---\nconfigs:\n- config_name: ../../../canary\n  data_files: rows.jsonl\n---\n"
CONFIGS = "---\nconfigs:\n- config_name: default\n  data_files: {}\n---\n"


def declares(value: object, name: str = "README.md"):
    """Return what writes a README that declares files."""
    text = CONFIGS.format(json.dumps(value))
    return lambda folder: (folder / name).write_text(text if name == "README.md" else text.replace("---\n", ""))


def links(target: str, name: str = "more.jsonl"):
    """Return what makes a link to a path."""
    return lambda folder: (folder / name).symlink_to(target)


def renamed(name: str):
    """Return what renames the file of rows."""
    return lambda folder: (folder / "rows.jsonl").rename(folder / name)


def writes(name: str, text: str):
    """Return what writes a file."""
    return lambda folder: (folder / name).write_text(text)


def huge_readme(folder: Path) -> None:
    """Make a README of 5 GB, without blocks."""
    with (folder / "README.md").open("wb") as file:
        file.truncate(5 << 30)


def saved(name: str):
    """Return what writes a saved dataset with another name of its file."""

    def write(folder: Path) -> None:
        (folder / "rows.jsonl").unlink()
        Dataset.from_list([{"text": "x"}]).save_to_disk(folder)
        content = json.loads((folder / "state.json").read_text()) | {"_data_files": [{"filename": name}]}
        (folder / "state.json").write_text(json.dumps(content))

    return write


def saved_splits(names: list[str]):
    """Return what writes a saved dataset whose splits have names."""
    return lambda folder: (folder / "dataset_dict.json").write_text(json.dumps({"splits": names}))


def socket_in(folder: Path) -> None:
    """Make a socket that has the name of a data file; its path may be too long for one, but not relative."""
    here = Path.cwd()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("more.jsonl")
    os.chdir(here)


def images(folder: Path) -> None:
    """Write rows of images that are files outside."""
    (folder / "rows.jsonl").unlink()
    image = {"bytes": None, "path": str(folder.parent / "secret.txt")}
    table = pa.table(
        {"text": [image] * 20}, pa.schema({"text": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    )
    features = json.dumps({"info": {"features": {"text": {"_type": "Image"}}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": features}), folder / "rows.parquet")


@pytest.mark.hostile("data cards")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(declares("../secret.txt"), WITHIN, id="readme-names-a-file-outside"),
        pytest.param(declares(["rows.jsonl", "/etc/passwd"]), WITHIN, id="readme-names-an-absolute-path"),
        pytest.param(declares({"train": "../**"}), WITHIN, id="readme-names-a-pattern-outside"),
        pytest.param(
            declares([{"split": "train", "path": ["../secret.txt"]}]), WITHIN, id="readme-splits-outside", marks=SLOW,
        ),
        pytest.param(declares("https://127.0.0.1:9/rows.jsonl"), URL, id="readme-names-a-url"),
        pytest.param(declares("../secret.txt", ".huggingface.yaml"), WITHIN, id="yaml-names-a-file-outside"),
        pytest.param(writes("README.md", f"---\n{bomb()}---\n"), BOMB, id="readme-of-aliases"),
        pytest.param(huge_readme, "HFKIT_MAX_TEXT_BYTES", id="huge-readme"),
        pytest.param(lambda folder: os.mkfifo(folder / "README.md"), NO_FILE, id="readme-is-a-pipe"),
        pytest.param(lambda folder: os.mkfifo(folder / ".huggingface.yaml"), NO_FILE, id="yaml-is-a-pipe"),
        pytest.param(links("README.md", "README.md"), NO_FILE, id="readme-is-a-loop", marks=SLOW),
        pytest.param(links("/dev/zero", "README.md"), NO_FILE, id="readme-is-a-device"),
        pytest.param(links("../secret.jsonl"), OUTSIDE, id="link-to-outside"),
        pytest.param(renamed("rows.zip"), "it has no ", id="zip"),
        pytest.param(writes("README.md", NAMED), "cannot read the dataset", id="name-of-a-configuration-outside"),
        pytest.param(writes("dataset_infos.json", "[" * 100_000), "cannot read", id="infos-of-brackets", marks=SLOW),
        pytest.param(saved("../secret.txt"), WITHIN, id="saved-data-set-names-a-file-outside"),
        pytest.param(saved("https://127.0.0.1:9/a.arrow"), URL, id="saved-data-set-names-a-url"),
        pytest.param(saved_splits(["train", "../.."]), WITHIN, id="saved-splits-outside", marks=SLOW),
        pytest.param(writes("state.json", "[" * 100_000), "cannot read", id="saved-data-set-of-brackets"),
        pytest.param(images, "image|struct|Image", id="images-of-files-outside"),
    ],
)  # fmt: skip
def test_a_folder_that_attacks_is_refused(attack, tmp_path, secret, make, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(ROWS)
    secret.with_name("secret.jsonl").write_text(json.dumps({"text": secret.read_text()}) + "\n")
    make(folder)
    ran = attack(*CHECK, "folder")
    assert ran.status in (1, 2) and re.search(message, ran.output), ran


@pytest.mark.hostile("data cards")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: os.mkfifo(folder / "more.jsonl"), id="pipe"),
        pytest.param(socket_in, id="socket", marks=SLOW),
        pytest.param(links("/dev/zero"), id="device", marks=SLOW),
        pytest.param(links("more.jsonl"), id="link-to-itself"),
        pytest.param(links("."), id="link-to-its-folder", marks=SLOW),
        pytest.param(lambda folder: (folder / "deeper").symlink_to(".."), id="folder-within-itself"),
    ],
)
def test_a_folder_with_special_files_is_read(attack, tmp_path, make):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(ROWS)
    make(folder)
    ran = attack(*CHECK, "folder")
    assert "\n  20 rows" in ran.output or "is not a file" in ran.output, ran


def test_a_link_to_a_folder_and_links_within_are_read(attack, tmp_path):
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "real" / "data" / "one").write_text(ROWS)
    (tmp_path / "real" / "rows.jsonl").symlink_to("data/one")
    (tmp_path / "link").symlink_to("real")
    assert "\n  20 rows" in attack(*CHECK, "link").output


def test_links_of_the_cache_of_the_hub_are_read(attack, tmp_path):
    snapshot, blob = tmp_path / "datasets--user--data" / "snapshots" / "abc", "0123456789" * 4
    (snapshot.parents[1] / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs" / blob).write_text(ROWS)
    (snapshot / "rows.jsonl").symlink_to(f"../../blobs/{blob}")
    assert "\n  20 rows" in attack(*CHECK, snapshot).output


@pytest.mark.parametrize("name", ["json", pytest.param("pandas", marks=SLOW)])
def test_a_folder_may_have_the_name_of_a_builder(attack, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "rows.jsonl").write_text(ROWS)
    assert "\n  20 rows" in attack(*CHECK, name).output


@pytest.mark.hostile("data cards")
def test_a_card_pushes_no_file_outside_of_its_folder(attack, tmp_path, secret):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("..")
    (tmp_path / "card.md").write_text(card("folder", files("link/secret.txt")))
    ran = attack("data", "push", "card.md", "user/data", "--dry_run")
    assert ran.status in (1, 2) and OUTSIDE in ran.output, ran
