"""Model cards: each stage's is one that the Hub takes, tells what the record tells, and its lines of code run as they
stand; what somebody wrote into it stays."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hub_server import cards
from huggingface_hub import ModelCard
from interruption import stopped_copy

from hfkit.errors import ConfigError, HfkitError
from hfkit.hub.card import updated_card, write_card
from hfkit.hub.figures import figure_of, numbers_in
from hfkit.hub.marks import Written, newer, noted
from hfkit.merge import merge
from hfkit.record import read_record, weights_hash

CODE = re.compile(r"```python\n(.*?)```", re.S)
FULL = {"use_peft": False, "lora_r": None}
FOLDERS = {  # name -> task, library, whether it stands on the base
    "tokenizer": (None, "transformers", False),
    "pretrain": ("text-generation", "transformers", False),
    "pretrain-adapter": ("text-generation", "peft", True),
    "sft": ("text-generation", "peft", True),
    "sft-full": ("text-generation", "transformers", True),
    "reward": ("text-classification", "peft", True),
    "reward-full": ("text-classification", "transformers", True),
    "ppo": ("text-generation", "peft", True),
    "ppo-full": ("text-generation", "transformers", True),
    "sft-merged": ("text-generation", "transformers", True),
    "reward-merged": ("text-classification", "transformers", True),
}


@pytest.fixture(scope="module")
def folder_of(request, run_stage, runs):
    """folder_of(name) -> the folder of a stage, as an adapter, full or merged; each is made once."""
    named = {"tokenizer": "tokenizer_dir", "pretrain": "base_dir"} | {n: f"{n}_dir" for n in ("sft", "reward", "ppo")}

    def make(name: str) -> Path:
        stage, _, kind = name.partition("-")
        if not kind:
            return request.getfixturevalue(named[name])
        out = runs / name
        if out.exists():
            return out
        if kind == "merged":
            return merge(str(make(stage)), out)
        if kind == "adapter":
            changes = {"model_config": None, "model_name_or_path": str(make("pretrain")), "use_peft": True}
            return run_stage(stage, out, **changes, tokenizer_name_or_path=None, max_steps=2)
        return run_stage(stage, out, **FULL)

    return make


def card_of(folder: Path, existing: str | None = None, repo_id: str | None = None) -> str:
    return updated_card(existing, folder, read_record(folder), repo_id)


def pushed_card(folder: Path, repo_id: str, commit: str) -> str:
    """The card as it goes to `repo_id`, when the base is at a commit of ann/base."""
    record = read_record(folder)
    bases = [record["base"]] if "base" in record else record["lineage"][:1]
    for base in bases:
        here, there = json.dumps(base["path"]), '"ann/base"'
        text = json.dumps(record).replace(f'{here}, "revision": null', f'{there}, "revision": "{commit}"')
        record = json.loads(text)
    return updated_card(None, folder, record, repo_id)


def errors_in(text: str) -> list[str]:
    return cards.faults_of(text, "model")[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_hub_takes_the_card_of_each_stage(folder_of, runs, name):
    folder, (task, library, on_base) = folder_of(name), FOLDERS[name]
    text = (folder / "README.md").read_text()
    assert text == noted(card_of(folder))  # made from the record alone
    assert errors_in(text) == []
    card = ModelCard(text).data
    assert (card.pipeline_tag, card.library_name, card.base_model) == (task, library, None)
    assert str(runs) not in text
    pushed = pushed_card(folder, "bob/it", "c" * 40)
    assert errors_in(pushed) == []
    card = ModelCard(pushed).data
    told = ("ann/base", "adapter" if library == "peft" else "finetune") if on_base else (None, None)
    assert (card.base_model, card.get("base_model_relation")) == told
    assert f"[ann/base](https://huggingface.co/ann/base) at `{'c' * 12}`" in pushed or not on_base
    record = read_record(folder)
    assert all(figure_of(record["stage"], key).meaning for key in numbers_in(record["metrics"]))
    if "eval_loss" in record["metrics"]:
        assert {result.metric_type for result in card.eval_results} >= {"loss"}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_lines_that_load_it_run_as_they_stand(folder_of, name, monkeypatch, capsys):
    folder = folder_of(name)
    monkeypatch.chdir(folder.parent)
    blocks = CODE.findall((folder / "README.md").read_text())
    capsys.readouterr()
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    if name.startswith("reward"):
        plain, by_hfkit = map(float, printed.split())
        assert plain == pytest.approx(by_hfkit, abs=5e-3 if "merged" in name else 1e-6)  # a merged model is in bf16
    else:
        assert "What is the capital of France?" in printed or name == "tokenizer"


def test_a_reward_is_read_where_the_reply_ends_whatever_the_template_writes(run_stage, tmp_path, monkeypatch, capsys):
    (tmp_path / "bare.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}")
    run_stage("reward", tmp_path / "it", chat_template=str(tmp_path / "bare.jinja"), max_steps=1)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for block in CODE.findall((tmp_path / "it" / "README.md").read_text()):
        exec(compile(block, "README.md", "exec"), {})
    plain, by_hfkit = map(float, capsys.readouterr().out.split())
    assert plain == pytest.approx(by_hfkit, abs=1e-6)


def test_an_adapter_over_4_bits_is_opened_as_it_was_trained(run_stage, tmp_path, monkeypatch, capsys):
    pytest.importorskip("bitsandbytes")
    folder = run_stage("sft", tmp_path / "sft", load_in_4bit=True, bf16=False, max_steps=1)
    text = (folder / "README.md").read_text()
    assert "Its base was held in 4 bits" in text
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in CODE.findall(text):
        exec(compile(block, "README.md", "exec"), names)
    assert names["model"].get_base_model().is_loaded_in_4bit


# What it tells


def test_it_tells_what_the_record_tells(ppo_dir, sft_dir, base_dir, reward_dir):
    text = (ppo_dir / "README.md").read_text()
    record = read_record(ppo_dir)
    for key, value in record["metrics"].items():
        assert re.search(rf"\| `{key}` \| {re.escape(f'{value:.4g}')} \| \S+", text), key  # each with its meaning
    rows = [("base beneath the adapter", base_dir), ("sft", sft_dir), ("reward", reward_dir)]
    for part, folder in rows:
        assert f"| {part} | `{folder.name}` | local, not pushed | `{weights_hash(folder)[:12]}` |" in text
    assert "| train | 4 | 4 | 0 |" in text
    sample = json.loads((ppo_dir / "samples.jsonl").read_text().splitlines()[0])
    assert f"after (reward {sample['reward_after']:.2f}): {sample['after'].strip()}" in text
    assert "- It was trained on 4 rows, in 2 steps." in text
    assert "learning_rate: 0.001" in text
    assert "![Loss and other figures over the training](loss.png)" in text
    assert "No licence is stated" in text


def test_figures_name_the_rows_that_they_were_measured_on(ppo_dir, reward_dir):
    results = ModelCard((reward_dir / "README.md").read_text()).data.eval_results
    assert {(one.dataset_type, one.dataset_name) for one in results} == {("json", "pairs.jsonl (8 rows held out)")}
    accuracy = next(one for one in results if one.metric_type == "accuracy")
    assert accuracy.metric_value == pytest.approx(read_record(reward_dir)["metrics"]["eval_accuracy"], rel=1e-3)
    assert {one.metric_type for one in ModelCard.load(ppo_dir / "README.md").data.eval_results} == {"kl", "mean_reward"}


def test_a_later_evaluation_is_told_too_with_its_rows(reward_dir):
    record = read_record(reward_dir)
    split = {"rows": 500, "kept": 500, "sources": [{"path": "ann/pairs", "split": "test", "rows": 500}]}
    metrics = {"accuracy": 0.75, "accuracy_low": 0.7, "accuracy_high": 0.8, "probes": {"real": {"mean": 1.0}}}
    record["evaluation"] = {"metrics": metrics, "data": {"test": split}}
    text = updated_card(None, reward_dir, record)
    assert "Evaluated on 500 held-out rows" in text
    assert "| `accuracy` | 0.75 (0.7 to 0.8) | share of held-out pairs" in text
    assert "_low" not in text
    result = ModelCard(text).data.eval_results[-1]
    assert (result.dataset_type, result.dataset_split, result.metric_value) == ("ann/pairs", "test", 0.75)


def test_rows_and_models_of_the_hub_are_named_by_their_ids(sft_dir):
    record = read_record(sft_dir)
    source = {"path": "tatsu-lab/alpaca", "revision": "v1", "split": "train[:40]", "rows": 40, "sha256": "d" * 64}
    source |= {"card": "cards/alpaca.md", "taken": {"share": 0.5, "epochs": 2.0}}
    record["data"]["train"] |= {"sources": [source], "mixed": 80}
    record["base"] |= {"path": "ann/base", "revision": "b" * 40}
    text = updated_card(None, sft_dir, record)
    card = ModelCard(text).data
    assert (card.datasets, card.base_model, card.get("base_model_relation")) == (
        ["tatsu-lab/alpaca"],
        "ann/base",
        "adapter",
    )
    [result] = {(one.dataset_type, one.dataset_split, one.dataset_revision) for one in card.eval_results}
    assert result == ("tatsu-lab/alpaca", "train[:40]", "v1")
    line = (
        "[tatsu-lab/alpaca](https://huggingface.co/datasets/tatsu-lab/alpaca) at `v1`, data card `alpaca`, `train[:40]`"
    )
    assert f"- train: {line}, 40 rows, sha256 `dddddddddddd`, 50% of a pass over the mixture, 2 times each" in text
    assert "has not been pushed" not in text


def test_what_went_wrong_is_among_the_limits(sft_dir):
    record = read_record(sft_dir)
    record["stopped"] = "KL 30 > max_kl"
    record["data"]["train"] |= {"rows": 30, "cut": 2, "dropped": {"empty": 6}, "faults": {"with a reply twice": 3}}
    del record["data"]["test"]
    text = updated_card(None, sft_dir, record)
    assert "- Of 30 rows of train, some were dropped: 6 empty." in text
    assert "- Of 30 rows of train, 2 were cut at their end." in text
    assert "- Of the rows of train that were kept, 3 with a reply twice." in text
    assert "- The training stopped early: KL 30 > max_kl." in text
    assert "- No rows were held out" in text
    assert ModelCard(text).data.eval_results is None


def test_a_card_holds_no_path_and_no_secret(sft_dir, tmp_path):
    record = read_record(sft_dir)
    record["warnings"] = [f"read {tmp_path}/deep/rows.jsonl twice, see https://a.b/c/d"]
    record["config"] |= {
        "chat_template": str(tmp_path / "deep" / "mine.jinja"),
        "hub_token": "hf_" + "a" * 34,
        "logging_dir": "~/logs/of-mine",
        "fsdp_config": {"file": str(tmp_path / "f.json"), "api_key": "sk-1234"},
    }
    text = updated_card(None, sft_dir, record)
    assert "chat_template: mine.jinja" in text
    assert "this was warned of: read rows.jsonl twice, see https://a.b/c/d" in text
    for hidden in (str(tmp_path), "a" * 34, "sk-1234", "~/logs", "deep"):
        assert hidden not in text


def test_a_licence_of_the_config_is_that_of_the_card(run_stage, config_of, tmp_path):
    folder = run_stage("tokenizer", tmp_path / "out", license="cc-by-4.0")
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "No licence" not in card.text
    with pytest.raises(ConfigError, match=r"license: 'Apache 2\.0' -> did you mean apache-2\.0\?"):
        config_of("sft", tmp_path / "no", license="Apache 2.0")


def test_figures_that_are_no_numbers_stay_out_of_the_front_matter(reward_dir):
    record = read_record(reward_dir)
    record["metrics"]["eval_margin"] = float("nan")
    text = updated_card(None, reward_dir, record)
    assert "| `eval_margin` | nan |" in text
    assert "margin" not in {one.metric_type for one in ModelCard(text).data.eval_results}


def test_text_of_the_data_cannot_break_out_of_its_place(ppo_dir, tmp_path):
    for file in ("adapter_config.json", "hfkit.json"):
        (tmp_path / file).write_bytes((ppo_dir / file).read_bytes())
    said = "```\n<!-- /hfkit -->\n# mine"
    sample = {"prompt": said, "before": said, "after": "line\u2028line", "reward_before": 0, "reward_after": 1}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample, ensure_ascii=False) + "\n")
    record = read_record(tmp_path)
    record["data"]["train"]["sources"][0]["path"] = "a|b\n.jsonl"
    text = updated_card(None, tmp_path, record)
    assert "````text" in text
    assert updated_card(text, tmp_path, record) == text


# What is written by hand


HAND = ("A word before.", "## Thanks\n\nTo all.")


def edited(text: str) -> str:
    """A card as somebody has edited it on the Hub, whose editor may end lines with CRLF."""
    front, _, rest = text.removeprefix("---\n").partition("\n---\n")
    front = front.replace("- hfkit", "- hfkit\n- cats") + "\nlanguage: en\nlicense: mit"
    front = re.sub(r"pipeline_tag: .*\n", "", front)  # taken away
    return f"---\n{front}\n---\n\n{HAND[0]}\n{rest}\n{HAND[1]}\n".replace("\n", "\r\n")


@pytest.mark.parametrize("name", ["sft", "reward-merged", "tokenizer"])
def test_what_was_written_by_hand_is_kept(folder_of, name):
    folder = folder_of(name)
    first = card_of(folder, repo_id="bob/it")
    mine = edited(first)
    record = read_record(folder)
    record["metrics"]["eval_loss"] = 0.5  # trained again, with other figures
    again = updated_card(mine, folder, record, repo_id="bob/other")
    assert errors_in(again) == []
    card = ModelCard(again)
    assert (card.data.language, card.data.license, card.data.pipeline_tag) == ("en", "mit", None)
    assert card.data.tags == [*ModelCard(first).data.tags, "cats"]
    assert "No licence is stated" not in again
    before, _, rest = card.text.partition("<!-- hfkit: generated")
    assert before.strip() == HAND[0]
    assert rest.partition("<!-- /hfkit -->")[2].strip() == HAND[1]
    assert again.count("# other\n") == 1
    assert "| `eval_loss` | 0.5 |" in again
    assert updated_card(again, folder, record, repo_id="bob/other") == again


def test_a_result_that_somebody_added_stays_beside_the_generated_ones(reward_dir):
    card = ModelCard((reward_dir / "README.md").read_text())
    data = card.data.to_dict()
    metric = {"type": "accuracy", "value": 0.5}
    data["model-index"][0]["results"].append(
        {"task": {"type": "text-classification"}, "dataset": {"type": "a/b", "name": "B"}, "metrics": [metric]}
    )
    text = re.sub(r"^---\n.*?\n---\n", f"---\n{json.dumps(data)}\n---\n", str(card), count=1, flags=re.S)
    record = read_record(reward_dir)
    record["metrics"]["eval_accuracy"] = 0.75
    results = ModelCard(updated_card(text, reward_dir, record)).data.eval_results
    values = [(one.dataset_type, one.metric_value) for one in results if one.metric_type == "accuracy"]
    assert values == [("json", 0.75), ("a/b", 0.5)]
    record["metrics"] = {"train_loss": 1.0}  # nothing held out any more: no figure of before is left
    results = ModelCard(updated_card(text, reward_dir, record)).data.eval_results
    assert [one.dataset_type for one in results] == ["a/b"]


def test_a_card_of_somebody_else_is_kept_above_and_what_the_record_knows_better_is_not(sft_dir):
    other = (
        "---\nbase_model: /home/me/base\nlicense: mit\nlibrary_name: transformers\ntags:\n- mine\n"
        "- base_model:adapter:/home/me/base\n---\n# My model\n\nWords.\n"
    )
    record = read_record(sft_dir)
    record["base"] |= {"path": "ann/base", "revision": "c" * 40}
    text = updated_card(other, sft_dir, record, "bob/it")
    card = ModelCard(text)
    assert (card.data.base_model, card.data.license, card.data.library_name) == ("ann/base", "mit", "peft")
    assert "/home/me" not in text
    assert card.data.tags == ["hfkit", "sft", "trl", "lora", "mine"]
    assert card.text.strip().startswith("# My model\n\nWords.\n\n<!-- hfkit: generated")
    assert updated_card(text, sft_dir, record, "bob/it") == text


def test_a_card_without_front_matter_is_kept(sft_dir):
    text = card_of(sft_dir, "Just words.\n")
    assert ModelCard(text).text.strip().startswith("Just words.\n\n<!-- hfkit: generated")


@pytest.mark.parametrize("front", ["a: [", "- a\n- b"])
def test_a_front_matter_that_cannot_be_read_is_told(sft_dir, front):
    with pytest.raises(HfkitError, match=r"the front matter of README\.md cannot be read"):
        card_of(sft_dir, f"---\n{front}\n---\nWords.\n")


def test_the_later_edit_by_hand_is_kept_wherever_it_was_made(sft_dir):
    there = card_of(sft_dir, repo_id="bob/it")
    here = noted(there)  # as it is after a push
    assert newer(None, there) == newer(there, None) == newer(here, there) == there
    assert newer(here, f"{there}Edited there.\n") == f"{there}Edited there.\n"
    assert newer(f"{here}Edited here.\n", there) == f"{here}Edited here.\n"
    assert newer("All of it is mine.\n", there) == "All of it is mine.\n"
    without = here.replace("- trl\n", "")
    assert newer(without, there) == without
    # with something by hand in both, edited further on either side
    there = card_of(sft_dir, f"{there}Words.\n", repo_id="bob/it")
    here = noted(there)
    assert newer(here, f"{there}Edited there.\n").endswith("Edited there.\n")
    assert newer(f"{here}Edited here.\n", there).endswith("Edited here.\n")
    assert newer(f"{here}Edited.\n", f"{there}Edited.\n").endswith("Edited.\n")
    with pytest.raises(HfkitError, match="edited here and on the Hub"):
        newer(f"{here}Edited here.\n", f"{there}Edited there.\n")
    # a run that was never pushed takes over what is on the Hub
    assert newer((sft_dir / "README.md").read_text(), there) == there


def test_published_again_a_run_keeps_what_stands_in_its_card(sft_dir, tmp_path):
    for file in sft_dir.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = tmp_path / "README.md"
    there = card_of(tmp_path, repo_id="bob/it")
    card.write_text(edited(card.read_text()))
    write_card(tmp_path, read_record(tmp_path))
    assert HAND[1] in card.read_text()
    assert newer(card.read_text(), there) == card.read_text()  # still known to be the later edit
    assert ModelCard.load(card).data.license == "mit"


def test_a_card_without_marks_in_the_folder_is_kept_above_and_known_as_not_pushed(sft_dir, tmp_path):
    for file in sft_dir.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = tmp_path / "README.md"
    card.write_text("# Mine\n\nAll of it.\n")
    for _ in range(2):  # as two evaluations do
        write_card(tmp_path, read_record(tmp_path))
        assert ModelCard.load(card).text.strip().startswith("# Mine\n\nAll of it.\n\n<!-- hfkit: generated")
    assert card.read_text().count("All of it.") == 1
    assert newer(card.read_text(), card_of(sft_dir, repo_id="bob/it")) == card.read_text()


@pytest.mark.parametrize("name", ["sft", "reward"])
def test_a_trainer_leaves_no_card_with_its_checkpoints(folder_of, name):
    assert (folder_of(name) / "checkpoint-3").is_dir()
    written = Written.of((folder_of(name) / "README.md").read_text())
    assert (written.before, written.after) == ("", "")


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_what_is_written_while_a_run_is_interrupted_is_kept_in_its_card(run_stage, tmp_path, stage):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    folder = stopped_copy(run_stage(stage, tmp_path / "whole", **changes), tmp_path / "stopped", 1)
    (folder / "README.md").write_text("# Mine\n\nWhat I want of it.\n")
    run_stage(stage, folder, **changes, resume_from_checkpoint=True)
    assert "# Mine\n\nWhat I want of it.\n" in (folder / "README.md").read_text()


# From the Hub


def test_pushed_cards_load_what_they_are_about_by_its_id(folder_of, user_of, hub_server, tmp_path):
    names = ("tokenizer", "pretrain", "sft", "reward", "reward-merged")
    root = folder_of("pretrain").parent
    for name in names:
        copy = Path(shutil.copytree(folder_of(name), tmp_path / name, ignore=shutil.ignore_patterns("checkpoint-*")))
        for file in copy.glob("*.json"):
            file.write_text(file.read_text().replace(str(root), str(tmp_path)))
    bob, code = user_of("bob"), []
    for name in names:
        pushed = bob.hfkit("push", tmp_path / name, f"bob/{name}", "--private")
        assert pushed.status == 0, pushed.stderr
        text = hub_server.store.repo(f"bob/{name}").files()["README.md"].decode()
        assert ModelCard(text).data.base_model == ("bob/pretrain" if FOLDERS[name][2] else None)
        assert "local, not pushed" not in text
        assert str(tmp_path) not in text
        code += CODE.findall(text)
    bob.python(
        "from huggingface_hub import ModelCard\n" + "\n".join(f"ModelCard.load('bob/{n}').validate()" for n in names)
    )
    bob.python("\n".join(code))  # downloaded by the Hub's client, in a process of its own
