"""What `hfkit push` and `hfkit pull` refuse, with a remedy, before any file is uploaded or written."""

import json
import os
import shutil

import numpy as np
import pytest
from hub_fixtures import copies
from safetensors.numpy import save_file

from hfkit.core.errors import HfkitError
from hfkit.core.hub_ids import split_revision
from hfkit.hub.names import repo_id_error, revision_error
from hfkit.hub.secret_scan import find_secret
from hfkit.records.record import read_record, weights_hash


@pytest.fixture(scope="module")
def ann(user_of):
    return user_of("ann")


@pytest.fixture
def made(tmp_path, base_dir, sft_dir):
    return copies(tmp_path, base_dir, sft_dir)


@pytest.fixture
def refused(ann, hub_server):
    """Run a command that must be refused without any upload; return its errors."""

    def run(*argv, status: int = 2) -> str:
        before = {key: [*repo.commits] for key, repo in hub_server.store.repos.items()}
        sent = hub_server.uploaded()
        ran = ann.hfkit(*argv)
        assert (ran.status, ran.stdout) == (status, ""), ran
        assert "Traceback" not in ran.stderr
        assert {key: [*repo.commits] for key, repo in hub_server.store.repos.items()} == before
        assert hub_server.uploaded() == sent
        return ran.stderr

    return run


def edit(file, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_all_problems_are_reported_at_once(refused, made, hub_server):
    _, sft = made
    hub_server.store.add("ann/full", {"config.json": b"{}", "model.safetensors": b"1", "pytorch_model.bin": b"1"})
    (sft / "pytorch_model.bin").write_bytes(b"x")
    (sft / "tokenizer.json").unlink()
    (sft / "tokenizer.json").symlink_to("/etc/hostname")
    (sft / "README.md").write_text("my key is hf_" + "a" * 34)
    edit(sft / "hfkit.json", status="failed")
    output = refused("push", sft, "ann/full", "--private", "--revision", "a..b", "--include", "nothing*")
    reported = [
        f"{sft}/pytorch_model.bin: 'a pickle' -> can run code when it is loaded",
        f"{sft}/tokenizer.json: 'not a regular file' -> replace it with a copy",
        "README.md: 'line 1' -> looks like a token or key",
        f"{sft}: 'status failed' -> finish the run first",
        "ann/full: 'is public, not private' -> push to another repository, or change this one: "
        "hf repos settings ann/full --private",
        "--revision: 'a..b' -> not a valid name of a branch",
        "--include: 'nothing*' -> matches no file",
        "holds config.json, model.safetensors, pytorch_model.bin",
        "hf repos delete-files ann/full config.json model.safetensors pytorch_model.bin",
    ]
    assert [part for part in reported if part not in output] == []
    assert "aaaa" not in output


@pytest.mark.parametrize("before", ["", "= ", "\n", "a\r", "a\t", "\x1b", "\u5bc6\u94a5\uff1a"])
@pytest.mark.parametrize("token", ["hf_" + "a" * 34, "AKIA" + "A" * 16])
@pytest.mark.parametrize("escaped", [True, False])
def test_a_token_is_found_after_any_character(before, token, escaped):
    text = json.dumps({"note": f"{before}{token}\nmore"}) if escaped else f"{before}{token}\nmore"
    assert find_secret(text.encode(), None) is not None


def test_a_token_must_start_a_word():
    text = json.dumps("perhf_" + "a" * 34 + "\n a risk-" + "a" * 34)
    assert find_secret(text.encode(), None) is None


def test_a_repository_with_another_model_is_refused(refused, made, hub_server, ann):
    base, sft = made
    for name, folder in (("base", base), ("sft", sft)):
        assert ann.hfkit("push", folder, f"ann/{name}", "--public").status == 0
    assert "'holds an adapter, but this is not one' -> push to another repository" in refused("push", base, "ann/sft")
    assert "holds a full model, but this is an adapter" in refused("push", sft, "ann/base")
    edit(base / "hfkit.json", stage="merge", lineage=[], config={})
    assert "'holds a result of the stage pretrain, but this is one of merge'" in refused("push", base, "ann/base")
    assert "'is public, not private'" in refused("push", base, "ann/base", "--private")
    # another base: with other weights, in another repository
    save_file({"x": np.zeros(1)}, base / "model.safetensors")
    record = read_record(sft)
    record["base"]["weights_sha256"] = weights_hash(base)
    (sft / "hfkit.json").write_text(json.dumps(record))
    output = refused("push", sft, "ann/sft", "--with_base", "ann/other-base")
    assert "'holds an adapter for ann/base, but this one is for ann/other-base'" in output


def test_an_unknown_or_different_base_is_refused(refused, made, hub_server):
    base, sft = made
    config = sft / "adapter_config.json"
    edit(config, base_model_name_or_path="someone/base", revision=None)
    assert "'someone/base' -> has no revision and may change" in refused("push", sft, "ann/x")
    edit(config, revision="a" * 40)
    assert "there is no such model or revision on the Hub" in refused("push", sft, "ann/x")
    hub_server.store.add("someone/base", {"config.json": b"{}", "model.safetensors": b"other weights"})
    edit(config, revision=hub_server.store.repo("someone/base").branches["main"])
    assert "-> the adapter was trained on" in refused("push", sft, "ann/x")
    edit(config, base_model_name_or_path=str(base), revision=None)
    save_file({"x": np.zeros(1)}, base / "model.safetensors")
    assert "but its base is now" in refused("push", sft, "ann/x", "--with_base", "ann/y")
    shutil.rmtree(base)
    output = refused("push", sft, "ann/x", "--with_base", "ann/y")
    assert "the base is not a local folder: leave out --with_base" in output


def test_incomplete_models_are_refused(refused, made, tmp_path):
    base, sft = made
    config = (base / "config.json").read_text()
    (base / "config.json").unlink()
    assert "'no model, adapter or tokenizer'" in refused("push", base, "ann/x")  # a tokenizer has no weights
    for content in ("{nothing", "[1]"):
        (base / "config.json").write_text(content)
        assert "config.json: 'not a JSON mapping'" in refused("push", base, "ann/x")
    (base / "config.json").write_text(config)
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "'not readable' -> not a safetensors file, or truncated" in refused("push", base, "ann/x")
    weights.unlink()
    assert "'without weights' -> a push needs all weights of a model" in refused("push", base, "ann/x")
    (tmp_path / "empty").mkdir()
    assert "'no model, adapter or tokenizer'" in refused("push", tmp_path / "empty", "ann/x")
    assert "'no such folder'" not in refused("push", tmp_path / "empty", "ann/x")
    assert "no such folder" in refused("push", tmp_path / "none", "ann/x")
    os.mkfifo(sft / "adapter_model.safetensors.index.json")
    assert "'not a regular file'" in refused("push", sft, "ann/x")


def test_invalid_metadata_is_refused(refused, made):
    base, _ = made
    (base / "hfkit.json").unlink()
    (base / "README.md").write_text("---\nlicense: none-at-all\n---\n")
    assert "README.md: 'its metadata' -> \"license\" must be one of" in refused("push", base, "ann/x")


def test_no_login_and_no_write_access(refused, made, user_of, ann):
    base, _ = made
    ran = user_of(None).hfkit("push", base, "ann/x")
    assert ran.status == 2
    assert "login: missing -> not logged in: run `hf auth login`, or set HF_TOKEN" in ran.stderr
    assert "the Hub refuses the push to bob/x" in refused("push", base, "bob/x", status=1)
    token = ann.python("import os; answer = os.environ.pop('HF_TOKEN'); os.environ['HF_TOKEN'] = 'hf_' + 'x' * 34")
    assert "the Hub refuses the push to ann/x" in refused("push", base, "ann/x", status=1)
    ann.python(f"import os; os.environ['HF_TOKEN'] = {token!r}")


@pytest.mark.slow
def test_a_model_that_is_not_on_the_hub_is_reported_with_other_problems(refused, data, made, tmp_path):
    given = ["--model_name_or_path", "bob/none", "--output_dir", tmp_path / "out", "--learning_rate", "-1"]
    reported = refused("sft", "--datasets", json.dumps([{"path": str(data / "turns.jsonl")}]), *given)
    assert "model_name_or_path: 'bob/none' -> bob/none is neither a folder nor a model on the Hub" in reported
    assert reported.count("model_name_or_path") == 1
    assert "learning_rate: -1.0 -> must not be negative" in reported
    given += ["--tokenizer_name_or_path", made[0]]
    reported = refused("pretrain", "--datasets", json.dumps([{"path": str(data / "docs.jsonl")}]), *given)
    assert "model_name_or_path: 'bob/none' -> bob/none is neither a folder nor a model on the Hub" in reported
    assert "learning_rate: -1.0 -> must not be negative" in reported


def test_pickles_and_missing_models_are_not_pulled(refused, hub_server, tmp_path):
    out = tmp_path / "out"
    hub_server.store.add("bob/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert "holds pickles, which can run code when loaded" in refused("pull", "bob/pickled", out, status=1)
    assert "there is no model bob/none on the Hub" in refused("pull", "bob/none", out, status=1)
    assert "there is no model bob/pickled at v9" in refused("pull", "bob/pickled@v9", out, status=1)
    local = json.dumps({"base_model_name_or_path": "/home/bob/base", "peft_type": "LORA"}).encode()
    hub_server.store.add("bob/local", {"adapter_config.json": local, "adapter_model.safetensors": b"x"})
    assert "is not a model on the Hub: name it with --base" in refused("pull", "bob/local", out, status=1)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    hub_server.store.add("bob/fine", {"config.json": b"{}", "model.safetensors": b"x"})
    assert "is not empty: choose another folder" in refused("pull", "bob/fine", out, status=1)
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["a/b/c", "/abs", "../up", "a b", "", "a--b", "x.git", "a/" + "b" * 100])
def test_invalid_repository_ids(name):
    assert "not a repository name" in repo_id_error(name)


@pytest.mark.parametrize("name", ["a..b", "-x", "a b", "refs/heads/x", "x.lock", "a//b", "x/", "@{u}", "", "b" * 40])
def test_invalid_revisions(name):
    assert revision_error(name)


def test_revisions_in_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_revision("user/name@v1.0") == ("user/name", "v1.0")
    assert split_revision("user/name@a/b", "a/b") == ("user/name", "a/b")
    assert split_revision("user/name", "v1") == ("user/name", "v1")
    assert revision_error("trial/a-1.0") is None
    assert split_revision("user/name", "refs/pr/1") == ("user/name", "refs/pr/1")
    (tmp_path / "runs@home").mkdir()
    assert split_revision("runs@home") == ("runs@home", "main")
    with pytest.raises(HfkitError, match="keep one of the two"):
        split_revision("user/name@v1", "v2")
    with pytest.raises(HfkitError, match="is not a valid branch, tag or commit"):
        split_revision("user/name@../../v1")


def test_an_invalid_repository_id_is_one_problem(refused, made):
    errors = refused("push", made[0], "a/b/c", "--tag", "x y").splitlines()
    assert [line.split(":")[0].strip() for line in errors[1:]] == ["repo_id", "--tag"]
