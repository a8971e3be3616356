"""`hfkit push` makes one commit with the files of a model, without local paths, host names or secrets."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_fixtures import copies

from hfkit.hub.published_record import record_for_hub
from hfkit.records.record import read_record, weights_hash

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
ABOUT = {".gitattributes", "README.md", "hfkit.json", "loss.png", "generation_config.json"}


@pytest.fixture(scope="module")
def ann(user_of):
    return user_of("ann")


@pytest.fixture
def made(tmp_path, base_dir, sft_dir) -> tuple[Path, Path]:
    """Copies of a base and of an adapter on it."""
    return copies(tmp_path, base_dir, sft_dir)


def pushed(user, *argv) -> str:
    """Push, and return the output."""
    ran = user.hfkit("push", *argv)
    assert ran.status == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout


def test_a_push_is_one_commit_of_the_files_of_a_model(ann, made, hub_server):
    base, _ = made
    (base / ".env").write_text("SECRET=1")
    output = pushed(ann, base, "ann/one", "--public", "--message", "The base")
    repo = hub_server.store.repo("ann/one")
    assert not repo.private
    assert [commit.title for commit in repo.history()] == ["The base", "initial commit"]
    assert output == f"push: {base} is at {hub_server.endpoint}/ann/one, commit {repo.branches['main']}\n"
    assert {*repo.files()} == TOKENIZER | ABOUT | {"config.json", "model.safetensors"}
    for name in ("model.safetensors", "tokenizer.json", "config.json", "loss.png"):
        assert repo.files()[name] == (base / name).read_bytes()
    assert read_record(base)["hub"] == {
        **{"repo_id": "ann/one", "commit": repo.branches["main"], "weights_sha256": weights_hash(base)}
    }
    assert ann.python("import sys; answer = {'transformers', 'peft', 'trl'} & {*sys.modules} == set()")


@pytest.mark.slow
def test_a_push_does_not_wait_for_torch():
    code = "import sys, hfkit.commands.push; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_second_push_uploads_only_what_has_changed(ann, made, hub_server):
    base, _ = made
    pushed(ann, base, "ann/two")
    repo, before = hub_server.store.repo("ann/two"), hub_server.uploaded()
    assert repo.private  # as every new one
    assert "nothing to upload" in pushed(ann, base, "ann/two")
    assert len(repo.history()) == 2
    (base / "generation_config.json").write_text("{}")
    pushed(ann, base, "ann/two")
    assert len(repo.history()) == 3
    assert repo.files()["generation_config.json"] == b"{}"
    assert hub_server.uploaded() == before


def test_pushed_files_hold_no_paths_host_names_or_secrets(ann, made, hub_server):
    base, sft = made
    host = "anns-laptop"
    ann.python(f"import socket; socket.gethostname = lambda: {host!r}")
    record = read_record(sft)
    record["notes"] = [f"Measured on {host}; see {sft}/notes.txt and ~/notes."]
    record["config"] |= {"hub_api_key": "xyzzy", "run_name": str(base)}
    (sft / "hfkit.json").write_text(json.dumps(record))
    pushed(ann, sft, "ann/clean", "--with_base", "ann/clean-base")
    for name, content in hub_server.store.repo("ann/clean").files().items():
        for trace in (str(sft.parent), "/tmp", "xyzzy", host):
            assert trace.encode() not in content, (name, trace)
    uploaded = json.loads(hub_server.store.repo("ann/clean").files()["hfkit.json"])
    assert uploaded["notes"] == ["Measured on HOST; see notes.txt and notes."]
    assert uploaded["data"]["train"]["sources"][0]["path"] == "turns.jsonl"
    assert "hub" not in uploaded


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("see /home/john doe/runs/sft now", "see sft now"),
        ("of /home/john doe", "of ~"),
        ("read /mnt/my disk/a set/rows.jsonl twice", "read rows.jsonl twice"),
        ("in '{cwd}/runs/sft'", "in 'sft'"),
        ("see file:///home/x/y and key:/home/x/z", "see file://y and key:z"),
        ("see https://a.b/c/d, http://a.b:80/c/d", "see https://a.b/c/d, http://a.b:80/c/d"),
        ("3/4 of them, and/or none", "3/4 of them, and/or none"),
        ("b" * 300 + "/a", "b" * 300 + "/a"),
    ],
)
def test_paths_in_texts_are_shortened_to_their_last_part(tmp_path, monkeypatch, text, shortened):
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    monkeypatch.setenv("HOME", "/home/john doe")
    data = {"train": {"sources": [{"path": "/mnt/my disk/a set"}]}}
    record = {"notes": [text.format(cwd=Path.cwd())], "data": data}
    assert record_for_hub(record, None)["notes"] == [shortened]


def test_an_adapter_names_its_base_by_hub_id_and_commit(ann, made, hub_server):
    base, sft = made
    ran = ann.hfkit("push", sft, "ann/adapter")
    assert ran.status == 2
    assert "-> is not on the Hub: push it too with --with_base USER/pretrain" in ran.stderr
    assert ("model", "ann/adapter") not in hub_server.store.repos
    before = (sft / "adapter_config.json").read_bytes()
    pushed(ann, sft, "ann/adapter", "--with_base", "ann/adapter-base")
    commit = hub_server.store.repo("ann/adapter-base").branches["main"]
    files = hub_server.store.repo("ann/adapter").files()
    config, record = json.loads(files["adapter_config.json"]), json.loads(files["hfkit.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("ann/adapter-base", commit)
    home = {"path": "ann/adapter-base", "revision": commit, "weights_sha256": weights_hash(base)}
    assert record["base"] == home
    assert home.items() <= record["lineage"][0].items()
    assert (record["config"]["model_name_or_path"], record["config"]["model_revision"]) == ("ann/adapter-base", commit)
    assert b"base_model: ann/adapter-base" in files["README.md"]
    assert (sft / "adapter_config.json").read_bytes() == before
    # the base's folder remembers where it is, so another adapter on it needs no --with_base
    pushed(ann, sft, "ann/adapter-again")
    again = json.loads(hub_server.store.repo("ann/adapter-again").files()["adapter_config.json"])
    assert again["revision"] == commit


@pytest.mark.slow
def test_a_later_push_names_parents_pushed_meanwhile(ann, tmp_path, hub_server, base_dir, sft_dir, reward_dir):
    base, sft, reward = copies(tmp_path, base_dir, sft_dir, reward_dir)
    pushed(ann, reward, "ann/reward", "--with_base", "ann/its-base")
    repo = hub_server.store.repo("ann/reward")
    (start,) = json.loads(repo.files()["hfkit.json"])["lineage"]
    assert (start["path"], start["revision"]) == ("sft", None)
    assert "start: sft (sft), weights" in ann.hfkit("lineage", "ann/reward").stdout
    pushed(ann, sft, "ann/its-sft")
    sent = hub_server.uploaded()
    pushed(ann, reward, "ann/reward")
    (start,) = json.loads(repo.files()["hfkit.json"])["lineage"]
    assert (start["path"], start["revision"]) == ("ann/its-sft", hub_server.store.repo("ann/its-sft").branches["main"])
    assert hub_server.uploaded() == sent
    # with another parent it would be another model
    record = read_record(reward)
    record["lineage"][0] |= {"path": str(base), "weights_sha256": weights_hash(base)}
    (reward / "hfkit.json").write_text(json.dumps(record))
    assert (
        "'its start model is ann/its-sft, but here it is ann/its-base'"
        in ann.hfkit("push", reward, "ann/reward").stderr
    )


def test_branch_tag_and_default_namespace(ann, made, hub_server):
    base, _ = made
    pushed(ann, base, "refs", "--revision", "trial/a", "--tag", "v1.0")
    repo = hub_server.store.repo("ann/refs")
    assert {*repo.files("main")} == {".gitattributes"}
    assert repo.tags == {"v1.0": repo.branches["trial/a"]}
    pushed(ann, base, "ann/refs", "--revision", "trial/a", "--tag", "v1.0")  # all is as it should be
    (base / "generation_config.json").write_text("{}")
    ran = ann.hfkit("push", base, "ann/refs", "--revision", "v1.0", "--tag", "v1.0")
    assert ran.status == 2
    assert "--revision: 'v1.0' -> is a tag" in ran.stderr
    assert "--tag: 'v1.0' -> ann/refs has this tag on another commit" in ran.stderr


def test_edits_of_a_card_here_and_on_the_hub_are_kept(ann, made, hub_server):
    base, _ = made
    pushed(ann, base, "ann/card")
    repo = hub_server.store.repo("ann/card")
    edited = repo.files()["README.md"] + b"\nTo be used with care.\n"
    blobs = repo.at("main").files | {"README.md": hub_server.store.blob("README.md", edited)}
    repo.commit("main", blobs, "On the web", "", "ann")
    assert "nothing to upload" in pushed(ann, base, "ann/card")
    (base / "generation_config.json").write_text("{}")
    pushed(ann, base, "ann/card")
    assert b"To be used with care." in repo.files()["README.md"]
    (base / "README.md").write_text((base / "README.md").read_text() + "\nWritten here.\n")
    pushed(ann, base, "ann/card")
    assert repo.files()["README.md"].endswith(b"\nTo be used with care.\n\nWritten here.\n")
    blobs = repo.at("main").files | {"README.md": hub_server.store.blob("README.md", edited)}
    repo.commit("main", blobs, "Back again", "", "ann")
    (base / "README.md").write_text((base / "README.md").read_text() + "\nAnd here.\n")
    assert "edited here and on the Hub, in different ways" in ann.hfkit("push", base, "ann/card").stderr
    pushed(ann, base, "ann/card-2")
    assert b"Written here." in hub_server.store.repo("ann/card-2").files()["README.md"]


def test_a_dry_run_lists_files_and_sends_no_request(ann, made, hub_server):
    base, _ = made
    requests = len(hub_server.log)
    ran = ann.hfkit("push", base, "ann/dry", "--dry_run")
    assert ran.status == 0
    listed = dict(re.findall(r"│ (\S+) +│ +([\d,]+) │", ran.stdout))
    assert listed["model.safetensors"] == f"{(base / 'model.safetensors').stat().st_size:,}"
    assert {*listed} == (TOKENIZER | ABOUT | {"config.json", "model.safetensors", "all"}) - {".gitattributes"}
    assert "left out: checkpoint-12/, checkpoint-9/, metrics.jsonl" in ran.stdout
    assert len(hub_server.log) == requests


def test_include_uploads_checkpoints(ann, made, hub_server):
    base, _ = made
    pushed(ann, base, "ann/asked", "--include", "checkpoint-12/*", "metrics.jsonl")
    files = {*hub_server.store.repo("ann/asked").files()}
    assert {"metrics.jsonl", "checkpoint-12/optimizer.pt", "checkpoint-12/model.safetensors"} <= files
    assert not any(name.startswith("checkpoint-9") for name in files)


def test_a_folder_without_a_record_is_pushed_unchanged(ann, made, hub_server):
    base, sft = made
    (base / "hfkit.json").unlink()
    (base / "README.md").write_text("---\nlicense: mit\n---\n\nA model.\n")
    shutil.rmtree(base / "checkpoint-9")
    pushed(ann, base, "ann/plain")
    assert hub_server.store.repo("ann/plain").files()["README.md"] == (base / "README.md").read_bytes()
    pushed(ann, sft, "ann/on-plain", "--with_base", "ann/plain")
    config = json.loads(hub_server.store.repo("ann/on-plain").files()["adapter_config.json"])
    assert config["revision"] == hub_server.store.repo("ann/plain").branches["main"]


def test_the_token_is_in_no_output_and_no_file(ann, made, hub_server):
    pushed(ann, made[0], "ann/last")
    ann.python("import os; os.environ['HFKIT_DEBUG'] = '1'")
    assert "Traceback" in ann.hfkit("push", made[0], "bob/not-hers").stderr
    token = ann.token.encode()
    written = [file.read_bytes() for file in made[0].parent.rglob("*") if file.is_file()]
    cached = [file.read_bytes() for file in ann.home.rglob("*") if file.is_file()]
    uploaded = [content for repo in hub_server.store.repos.values() for content in repo.files().values()]
    assert not any(token in content for content in written + cached + uploaded)
    assert not any(ann.token in line for line in ann.outputs)
    assert not any(ann.token in request.path for request in hub_server.log)
    assert hub_server.leaks == []
