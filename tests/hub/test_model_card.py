"""Model cards of all stages: valid on the Hub, true to the record, with code that runs."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from card_fixtures import card_of, errors_in
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from quick import mostly_slow

from hfkit.config.registry import MERGE, STAGES
from hfkit.core.errors import ConfigError
from hfkit.hub.cards.hand_edits import with_edit_hash
from hfkit.hub.cards.markdown import quoted
from hfkit.hub.cards.metric_descriptions import describe_metric, numbers_in
from hfkit.hub.cards.model_card import updated_card
from hfkit.records.record import read_record, weights_hash

CODE = re.compile(r"```python\n(.*?)```", re.S)
FOLDERS = {  # name -> task, library, whether it needs the base
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
each_folder = pytest.mark.parametrize(
    "name", mostly_slow(FOLDERS, {*FOLDERS} - {"ppo-full", "reward-full", "sft-full"})
)


def pushed_card(folder: Path, repo_id: str, commit: str) -> str:
    """The card as it goes to `repo_id`, when the base is at a commit of ann/base."""
    record = read_record(folder)
    bases = [record["base"]] if "base" in record else record["lineage"][:1]
    for base in bases:
        here, there = json.dumps(base["path"]), '"ann/base"'
        text = json.dumps(record).replace(f'{here}, "revision": null', f'{there}, "revision": "{commit}"')
        record = json.loads(text)
    return updated_card(None, folder, record, repo_id)


@each_folder
def test_the_card_of_each_stage_is_valid(stage_folder, runs, name):
    folder, (task, library, on_base) = stage_folder(name), FOLDERS[name]
    text = (folder / "README.md").read_text()
    assert text == with_edit_hash(card_of(folder))  # made from the record alone
    assert errors_in(text) == []
    card = ModelCard(text).data
    assert (card.pipeline_tag, card.library_name, card.base_model) == (task, library, None)
    assert str(runs) not in text
    pushed = pushed_card(folder, "bob/it", "c" * 40)
    assert errors_in(pushed) == []
    card = ModelCard(pushed).data
    expected = ("ann/base", "adapter" if library == "peft" else "finetune") if on_base else (None, None)
    assert (card.base_model, card.get("base_model_relation")) == expected
    assert f"[ann/base](https://huggingface.co/ann/base) at `{'c' * 12}`" in pushed or not on_base
    record = read_record(folder)
    assert all(describe_metric(record["stage"], key).meaning for key in numbers_in(record["metrics"]))
    if "eval_loss" in record["metrics"]:
        assert {result.metric_type for result in card.eval_results} >= {"loss"}


@each_folder
def test_the_code_in_a_card_runs(stage_folder, name, monkeypatch, capsys):
    folder = stage_folder(name)
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


@pytest.mark.slow
def test_the_code_reads_a_reward_at_the_end_of_the_response_with_any_template(run_stage, tmp_path, monkeypatch, capsys):
    (tmp_path / "bare.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}")
    run_stage("reward", tmp_path / "it", chat_template=str(tmp_path / "bare.jinja"), max_steps=1)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for block in CODE.findall((tmp_path / "it" / "README.md").read_text()):
        exec(compile(block, "README.md", "exec"), {})
    plain, by_hfkit = map(float, capsys.readouterr().out.split())
    assert plain == pytest.approx(by_hfkit, abs=1e-6)


@pytest.mark.slow
def test_the_code_loads_a_4_bit_base_as_in_training(run_stage, tmp_path, monkeypatch, capsys):
    pytest.importorskip("bitsandbytes")
    folder = run_stage("sft", tmp_path / "sft", load_in_4bit=True, bf16=False, max_steps=1)
    text = (folder / "README.md").read_text()
    assert "The base was quantized to 4 bits during training" in text
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in CODE.findall(text):
        exec(compile(block, "README.md", "exec"), names)
    assert names["model"].get_base_model().is_loaded_in_4bit


# Content


def test_a_card_shows_metrics_lineage_rows_samples_and_settings(ppo_dir, sft_dir, base_dir, reward_dir):
    text = (ppo_dir / "README.md").read_text()
    record = read_record(ppo_dir)
    for key, value in record["metrics"].items():
        assert re.search(rf"\| `{key}` \| {re.escape(f'{value:.4g}')} \| \S+", text), key  # each with its meaning
    rows = [("base of the adapter", base_dir), ("starting model", sft_dir), ("reward model", reward_dir)]
    for part, folder in rows:
        assert f"| {part} | `{folder.name}` | local, not pushed | `{weights_hash(folder)[:12]}` |" in text
    assert "| train | 4 | 4 | 0 |" in text
    sample = json.loads((ppo_dir / "samples.jsonl").read_text().splitlines()[0])
    assert f"Response after training (reward {sample['reward_after']:.2f}):" in text
    ((role, content),) = [(one["role"], one["content"]) for one in sample["messages"]]
    assert f"> **{role}:** {content}\n" in text and sample["prompt"] not in text
    assert "- Trained on 4 rows, in 2 steps." in text
    assert "learning_rate: 0.001" in text
    assert "![Loss and other metrics during training](loss.png)" in text
    assert "No license is stated" in text


def test_eval_results_name_their_rows(ppo_dir, reward_dir):
    results = ModelCard((reward_dir / "README.md").read_text()).data.eval_results
    assert {(one.dataset_type, one.dataset_name) for one in results} == {("json", "pairs.jsonl (8 held-out rows)")}
    accuracy = next(one for one in results if one.metric_type == "accuracy")
    assert accuracy.metric_value == pytest.approx(read_record(reward_dir)["metrics"]["eval_accuracy"], rel=1e-3)
    assert {one.metric_type for one in ModelCard.load(ppo_dir / "README.md").data.eval_results} == {"kl", "mean_reward"}


def test_a_card_shows_a_later_evaluation_with_its_rows(reward_dir):
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


def test_datasets_and_models_on_the_hub_are_named_by_id(sft_dir):
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
    assert f"- train: {line}, 40 rows, sha256 `dddddddddddd`, 50% of the mixture, each row 2 times per epoch" in text
    assert "is not on the Hub" not in text


def test_limitations_show_lost_rows_and_an_early_stop(sft_dir):
    record = read_record(sft_dir)
    record["stopped"] = "KL 30 > max_kl"
    record["data"]["train"] |= {"rows": 30, "cut": 2, "dropped": {"empty": 6}, "faults": {"with a reply twice": 3}}
    del record["data"]["test"]
    text = updated_card(None, sft_dir, record)
    assert "- Of 30 rows in train, some were dropped: 6 empty." in text
    assert "- Of 30 rows in train, 2 were truncated at the end." in text
    assert "- Among the rows kept in train: 3 with a reply twice." in text
    assert "- Training stopped early: KL 30 > max_kl." in text
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
    assert "Warning during training: read rows.jsonl twice, see https://a.b/c/d" in text
    for hidden in (str(tmp_path), "a" * 34, "sk-1234", "~/logs", "deep"):
        assert hidden not in text


def test_the_license_of_the_config_is_in_the_card(run_stage, config_of, tmp_path):
    folder = run_stage("tokenizer", tmp_path / "out", license="cc-by-4.0")
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "No license" not in card.text
    with pytest.raises(ConfigError, match=r"license: 'Apache 2\.0' -> did you mean apache-2\.0\?"):
        config_of("sft", tmp_path / "no", license="Apache 2.0")


def test_nan_metrics_stay_out_of_the_metadata(reward_dir):
    record = read_record(reward_dir)
    record["metrics"]["eval_margin"] = float("nan")
    text = updated_card(None, reward_dir, record)
    assert "| `eval_margin` | nan |" in text
    assert "margin" not in {one.metric_type for one in ModelCard(text).data.eval_results}


def test_texts_from_the_data_cannot_break_the_markdown(ppo_dir, tmp_path):
    for file in ("adapter_config.json", "hfkit.json"):
        (tmp_path / file).write_bytes((ppo_dir / file).read_bytes())
    hostile = "```\n<!-- /hfkit -->\n# mine"
    sample = {"prompt": hostile, "before": hostile, "after": "line\u2028line", "reward_before": 0, "reward_after": 1}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample, ensure_ascii=False) + "\n")
    record = read_record(tmp_path)
    record["data"]["train"]["sources"][0]["path"] = "a|b\n.jsonl"
    text = updated_card(None, tmp_path, record)
    assert "<!-- /hfkit -->\n# mine" not in text
    assert updated_card(text, tmp_path, record) == text


@pytest.mark.parametrize(
    "text",
    [
        "# a\n- b\n+ c\n12. d\n1) e\n> f\n===\n---\n***",
        "`a` *b* _c_ ~~d~~ **e** [f](g) ![h](i) <b>j</b> &lt; $k$ \\ \\n l|m <!-- n -->\n```\no\n```",
        "def f():\n    return 1\n\n\treturn 2\n  | a | b |\n  | --- | --- |\n[c]: d\n\n[c]",
        "line\u2028line\x0bline\rline\r\nline\x85line\n",
        "<|im_start|>user\nHi.<|im_end|>\n",
        "",
    ],
)
def test_a_quote_shows_the_text_itself(text):
    html = MarkdownIt("gfm-like", {"linkify": False}).render(quoted(text, "**user:** "))
    assert {*re.findall(r"<(\w+)", html)} <= {"blockquote", "p", "strong", "br"}
    shown = [line.strip(" \t") for line in unescape(re.sub(r"<[^>]*>", "", html)).replace("\u00a0", " ").split("\n")]
    expected = [line.strip(" \t") for line in f"user: {text}".splitlines()]
    assert [line for line in shown if line] == [line for line in expected if line]
    assert html.count("\u00a0") == sum(len(one) - len(one.lstrip(" ")) for one in text.expandtabs(4).split("\n")[1:])


def test_a_run_of_a_stage_that_is_not_registered_has_a_card_too(sft_dir):
    record = read_record(sft_dir) | {"stage": "orpo"}
    text = updated_card(None, sft_dir, record)
    assert errors_in(text) == []
    assert "The result of a run of the stage `orpo`." in text
    assert ModelCard(text).data.tags == ["hfkit", "orpo", "lora"]


def test_a_merged_model_is_what_its_adapter_was(stage_folder):
    text = (stage_folder("reward-merged") / "README.md").read_text()
    assert f"{MERGE.purpose} {STAGES['reward'].purpose}" in text
    assert "Rewards compare responses to the same prompt" in text


# From the Hub


@pytest.mark.slow
def test_the_code_in_pushed_cards_loads_from_the_hub(stage_folder, user_of, hub_server, tmp_path):
    names = ("tokenizer", "pretrain", "sft", "reward", "reward-merged")
    root = stage_folder("pretrain").parent
    for name in names:
        copy = Path(shutil.copytree(stage_folder(name), tmp_path / name, ignore=shutil.ignore_patterns("checkpoint-*")))
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
    imports = "from huggingface_hub import ModelCard\nfrom hfkit.hub.repo_checks import validate_card\n"
    bob.python(imports + "\n".join(f"validate_card(ModelCard.load('bob/{name}'))" for name in names))
    bob.python("\n".join(code))  # downloaded by the Hub's client, in another process


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reward_model_path": "rm"}, "trained with PPO. Its rewards came from a reward model."),
        ({"reward_functions": ["a:f"]}, "trained with PPO. Its rewards came from the function `a:f`."),
        (
            {"reward_model_path": "rm", "reward_functions": ["a:f", "a:g"], "reward_weights": [1.0, 0.5, 2.0]},
            "Its rewards came from a reward model and the functions `a:f` and `a:g`, with the weights 1, 0.5, 2.",
        ),
    ],
)
def test_a_card_names_what_gave_the_rewards_and_nothing_else(stage_folder, settings, sentence):
    folder = stage_folder("ppo")
    record = read_record(folder)
    own = {"reward_model_path": None, "reward_functions": [], "reward_weights": []}
    roles = [one for one in record["lineage"] if "reward_model_path" in settings or one["role"] != "reward"]
    card = updated_card(None, folder, record | {"config": record["config"] | own | settings, "lineage": roles})
    assert sentence in card
    assert ("reward model" in card) == ("reward_model_path" in settings)
