"""`hfkit evaluate`: the right rows, the right metrics, the files that it writes, and its errors."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROWS
from meter import ModelMeter
from transformers import GPT2Config, GPT2LMHeadModel, LlamaModel

import hfkit
from hfkit.cli import main
from hfkit.config.evaluation import EvaluateConfig
from hfkit.config.fields import DatasetEntry
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES, StageSpec
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.forms import IGNORE
from hfkit.evaluation.checks import problems_of
from hfkit.evaluation.evaluate import evaluate
from hfkit.evaluation.held_out import find_held_out, prompt_and_reply, prompted_start
from hfkit.evaluation.prompts import load_prompts
from hfkit.evaluation.text_likelihoods import text_likelihoods
from hfkit.models.loading import is_classifier
from hfkit.records.record import read_record

SMALL = {"response_length": 6, "max_prompts": 4}


@pytest.fixture
def run_of(tmp_path):
    """A copy of a run that a test may write into."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("checkpoint-*")))

    return copy


def evaluated(model: Path, **settings) -> dict:
    small = {} if is_classifier(str(model), "main") else SMALL
    given = {"model_name_or_path": str(model), "per_device_eval_batch_size": 2, **small, **settings}
    config = load_config(EvaluateConfig, given, problems_of)
    return evaluate(config)


def test_a_policy_is_measured_on_the_rows_that_were_held_out_and_its_record_and_card_say_so(run_of, ppo_dir, sft_dir):
    folder = run_of(ppo_dir)
    result = evaluated(folder, against=[f"before={sft_dir}"])
    assert json.loads((folder / "evaluation.json").read_text()) == result
    assert list(result["by_model"]) == [folder.name, "before"]
    assert result["stage"] == "ppo"
    assert result["data"]["test"]["kept"] == 8
    assert result["metrics"] == result["by_model"][folder.name]
    assert read_record(folder)["evaluation"]["metrics"] == result["metrics"]
    assert read_record(folder)["metrics"] == read_record(ppo_dir)["metrics"]
    card = (folder / "README.md").read_text()
    assert "Evaluated on 8 held-out rows" in card
    reported = card.split("Evaluated on")[1].split("## ")[0]
    assert all(f"| `{name}` |" in reported for name in ("loss", "perplexity", "kl", "self_bleu"))
    assert " |  |" not in reported  # each figure has a meaning
    assert "kl" in result["metrics"] and "kl" not in result["by_model"]["before"]
    assert {len(sample["replies"]) for sample in result["samples"]} == {2}
    for name in ("loss", "kl", "reply_length", "exact_match"):
        assert result["metrics"][f"{name}_low"] <= result["metrics"][name] <= result["metrics"][f"{name}_high"]


def test_its_loss_is_that_of_the_trainers_evaluation(sft_dir, tmp_path):
    result = evaluated(sft_dir, output_dir=str(tmp_path))
    assert result["metrics"]["loss"] == pytest.approx(read_record(sft_dir)["metrics"]["eval_loss"], rel=1e-3)
    assert not (sft_dir / "evaluation.json").exists()
    assert "evaluation" not in read_record(sft_dir)


@pytest.mark.slow
def test_a_dpo_run_is_measured_on_named_pairs_as_on_its_own(run_stage, sft_dir, rows_file, tmp_path):
    pairs = rows_file(ROWS["pairs"][:8])
    rows = {"datasets": rows_file(ROWS["pairs"][8:], "train.jsonl"), "eval_datasets": pairs, "test_split_size": None}
    folder = run_stage("dpo", tmp_path / "dpo", **rows)
    own = evaluated(folder, output_dir=str(tmp_path / "own"), seed=1)["metrics"]
    named = {"datasets": pairs, "against": [str(sft_dir)], "output_dir": str(tmp_path / "named"), "seed": 1}
    by_model = evaluated(folder, **named)["by_model"]
    assert by_model[folder.name] == pytest.approx(own) and {"accuracy", "margin", "loss", "kl"} <= own.keys()
    assert own["margin"] == pytest.approx(read_record(folder)["metrics"]["eval_margin"], rel=1e-3)
    assert "loss" in by_model[sft_dir.name] and "accuracy" not in by_model[sft_dir.name]


@pytest.mark.slow
def test_a_policy_is_measured_on_the_chosen_responses_of_named_pairs(sft_dir, rows_file, tmp_path):
    pairs, found = ROWS["pairs"][:8], []
    chosen = [{"prompt": row["prompt"], "response": row["chosen"]} for row in pairs]
    for name, rows in (("pairs", pairs), ("chosen", chosen)):
        found.append(evaluated(sft_dir, output_dir=str(tmp_path / name), datasets=rows_file(rows, f"{name}.jsonl")))
    assert found[0]["metrics"]["loss"] == pytest.approx(found[1]["metrics"]["loss"])
    assert "accuracy" not in found[0]["metrics"]


def test_a_plain_text_is_predicted_from_its_first_token_on(base_dir, data):
    model, tokenizer = hfkit.load_policy(str(base_dir))
    found = find_held_out({"stage": "pretrain"}, False, 3, [hfkit.DatasetEntry(path=str(data / "docs.jsonl"))])
    rows, row_stats = found.encoded(tokenizer)
    assert row_stats.kept == 3
    ids = torch.tensor([[tokenizer.eos_token_id, *rows[0]["input_ids"]]])
    loss = model(input_ids=ids, labels=ids).loss
    first = text_likelihoods(model, tokenizer, rows.select([0]))
    assert first.nats[0] == pytest.approx(loss.item() * first.tokens[0], rel=1e-5)
    assert first.tokens[0] == ids.shape[1] - 1
    assert first.sizes[0] == len(found.rows[0]["text"].encode())


def test_rows_of_an_entry_caps_what_is_held_out(rows_file):
    entry = rows_file([{"text": f"Number {index}."} for index in range(9)])[0]
    found = [find_held_out({"seed": seed}, False, 9, [hfkit.DatasetEntry(**entry, rows=4)]) for seed in (0, 0, 1)]
    first, again, other = ([row["text"] for row in one.rows] for one in found)
    assert first == again != other and len({*first}) == 4


def test_a_text_as_long_as_the_context_is_predicted_too(tokenizer, rows_file):
    """Positions are learned: there is none for a token more."""
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=8, vocab_size=len(tokenizer))
    entry = hfkit.DatasetEntry(**rows_file([{"text": "Ann likes red. " * 8}])[0])
    rows, row_stats = find_held_out({}, False, 1, [entry]).encoded(tokenizer, config.n_positions)
    assert (len(rows[0]["input_ids"]), row_stats.cut) == (8, 1)
    assert text_likelihoods(GPT2LMHeadModel(config), tokenizer, rows).tokens.tolist() == [8]


def test_models_are_compared_on_what_all_of_them_read(tokenizer, rows_file):
    """Cut where the shortest context ends; and with another tokenizer, only what neither would cut."""
    texts = ["Ann likes red.", "Bob likes blue. " * 20]
    entry = hfkit.DatasetEntry(**rows_file([{"text": text} for text in texts])[0])
    found, other = find_held_out({}, False, 2, [entry]), copy.deepcopy(tokenizer)
    rows, row_stats = found.shared_by([(tokenizer, 30), (other, 12)]).encoded(tokenizer, 30)
    assert (max(map(len, rows["input_ids"])), row_stats.kept, row_stats.cut) == (12, 2, 1)
    other.add_tokens(["likes"])
    shared = found.shared_by([(tokenizer, 30), (other, 12)])
    for reader in (tokenizer, other):
        rows, row_stats = shared.encoded(reader, 30)
        assert (len(rows), row_stats.dropped) == (1, {"not whole for every model": 1})
    with pytest.raises(HfkitError, match="fits into 2 tokens of each model"):
        found.shared_by([(tokenizer, 2), (other, None)])


def test_replies_of_an_instruction_are_all_that_its_loss_is_on(sft_dir):
    model, tokenizer = hfkit.load_policy(str(sft_dir))
    rows, _ = find_held_out(read_record(sft_dir), False, 2).encoded(tokenizer)
    found = text_likelihoods(model, tokenizer, rows)
    assert found.tokens.tolist() == [sum(label != IGNORE for label in row) for row in rows["labels"]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Who?", "response": "Ann."}, ("Who?", "Ann.")),
        ({"prompt": "Who?", "completion": "Ann."}, ("Who?", "Ann.")),
        ({"prompt": "Who?"}, ("Who?", None)),
        ({"messages": [{"role": "user", "content": "?"}]}, ([{"role": "user", "content": "?"}], None)),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]},
            ([{"role": "user", "content": "?"}], "!"),
        ),
        ({"text": "plain"}, None),
        ({"messages": [{"role": "assistant", "content": "!"}]}, None),
    ],
)
def test_what_a_row_asks(row, expected):
    assert prompt_and_reply(row) == expected


def test_a_reward_model_is_measured_on_pairs_as_its_stage_did(run_of, reward_dir):
    folder = run_of(reward_dir)
    result = evaluated(folder)
    trained = {key.removeprefix("eval_"): value for key, value in read_record(reward_dir)["metrics"].items()}
    figures = result["metrics"]
    assert figures == pytest.approx({key: trained[key] for key in figures}, abs=1e-5)
    assert result["probes"][folder.name].keys() == {"real", "empty", "repeated", "truncated", "off-topic"}


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0.3), ("max_prompts", 3), ("prompts", "prompts.jsonl"), ("reward_model", "x/y")]
)
def test_a_key_that_an_evaluation_of_a_reward_model_does_not_read_is_reported(reward_dir, data, tmp_path, key, value):
    value = [DatasetEntry(path=str(data / value))] if key == "prompts" else value
    config = EvaluateConfig(model_name_or_path=str(reward_dir), output_dir=str(tmp_path), **{key: value})
    [problem] = [problem for problem in problems_of(config) if "no effect" in problem.remedy]
    assert (problem.key, problem.keys) == (key, ("model_name_or_path",))


@pytest.mark.slow
def test_reward_models_are_in_memory_one_at_a_time(reward_dir, tmp_path):
    with ModelMeter(LlamaModel) as models:
        evaluated(reward_dir, against=[f"again={reward_dir}"], output_dir=str(tmp_path))
    assert models.most == 1


@pytest.mark.slow
def test_a_pretrained_model_has_no_replies_unless_prompts_are_named(base_dir, data, tmp_path, capsys):
    named = {"output_dir": str(tmp_path), "datasets": str(data / "docs.jsonl"), "max_rows": 6}
    assert evaluated(base_dir, **named)["metrics"].keys() == {
        "loss",
        "loss_low",
        "loss_high",
        "perplexity",
        "bits_per_byte",
    }
    assert "name prompts to respond to with --prompts" in capsys.readouterr().out
    metrics = evaluated(base_dir, **named, prompts=str(data / "prompts.jsonl"), temperature=0)["metrics"]
    assert "self_bleu" in metrics and "exact_match" not in metrics


ASKED = [{"role": "user", "content": "Who?"}]
CHAT = [*ASKED, {"role": "assistant", "content": "Ann."}]


@pytest.mark.parametrize(
    ("form", "row", "reference"),
    [
        ("prompts", {"prompt": ASKED}, None),
        ("preference", {"prompt": ASKED, "chosen": "Ann.", "rejected": "Bob."}, None),
        ("preference", {"chosen": CHAT, "rejected": [*ASKED, {"role": "assistant", "content": "Bob."}]}, None),
        ("ranking", {"prompt": ASKED, "replies": ["Ann.", "Bob."], "scores": [1, 0]}, None),
        ("prompt_response", {"prompt": ASKED, "response": "Ann."}, "Ann."),
        ("messages", {"messages": CHAT}, "Ann."),
    ],
    ids=["prompts", "pairs", "pairs without a prompt", "rankings", "instructions", "conversations"],
)
def test_every_card_that_asks_something_has_prompts_to_reply_to(tmp_path, rows_file, form, row, reference):
    columns, convert = {name: name for name in row}, [] if {"prompt", "messages"} & {*row} else ["shared_prompt"]
    block = {"path": str(tmp_path), "files": {"train": "rows.jsonl"}, "form": form, "columns": columns}
    rows_file([row])
    card = tmp_path / "mine.md"
    card.write_text(f"---\n{json.dumps({'license': 'mit', 'hfkit': {**block, 'convert': convert}})}\n---\n\n# Mine\n")
    prompts, row_stats = load_prompts([DatasetEntry.from_text(str(card))], limit=4, seed=0, columns=[])
    assert prompts == [{"prompt": ASKED, "reference": reference}]
    assert (row_stats.rows, row_stats.kept, row_stats.dropped) == (1, 1, {})


@pytest.mark.slow
def test_rows_cap_each_source_of_prompts_by_the_seed(rows_file):
    def asked(seed: int) -> list[str]:
        rows, row_stats = load_prompts(entries, limit=100, seed=seed, columns=[])
        assert (row_stats.rows, row_stats.kept) == (50, 25)
        return [row["prompt"] for row in rows]

    files = rows_file([{"prompt": f"a {n}"} for n in range(30)], "a.jsonl")
    files += rows_file([{"prompt": f"b {n}"} for n in range(20)], "b.jsonl")
    entries = [DatasetEntry(**files[0], rows=5), DatasetEntry(**files[1])]
    assert asked(0) == asked(0)
    assert {*asked(0)} != {*asked(1)}
    assert sum(prompt.startswith("a") for prompt in asked(0)) == 5


@pytest.mark.parametrize("key", ["prompts", "datasets"])
@pytest.mark.parametrize("budget", ["weight", "epochs", "tokens"])
def test_a_budget_other_than_rows_is_refused(sft_dir, data, key, budget):
    entries = [{"path": str(data / "turns.jsonl")}, {"path": str(data / "turns.jsonl"), budget: 2}]
    with pytest.raises(ConfigError) as error:
        load_config(EvaluateConfig, {"model_name_or_path": str(sft_dir), key: entries}, problems_of)
    reported = {problem.key: problem.remedy for problem in error.value.problems}
    assert "set rows" in reported[f"{key}[1].{budget}"]


@pytest.mark.slow
def test_rewards_and_a_reference_of_ones_own(sft_dir, base_dir, reward_dir, tmp_path):
    given = {"reward_model": str(reward_dir), "reference": str(base_dir), "output_dir": str(tmp_path)}
    metrics = evaluated(sft_dir, **given)["metrics"]
    assert abs(metrics["kl"]) > 0.01  # of few samples, and so maybe negative; 0 with the reference of the run
    assert metrics["reward_low"] <= metrics["reward"] <= metrics["reward_high"]
    assert "kl" not in evaluated(sft_dir, **given, temperature=0)["metrics"]


@pytest.mark.slow
def test_missing_held_out_rows_are_an_error_that_asks_for_some(run_stage, tmp_path):
    folder = run_stage("sft", tmp_path / "sft", test_split_size=None, max_steps=1)
    with pytest.raises(HfkitError, match="names no held-out rows\nName rows that were not trained on: --datasets FILE"):
        evaluated(folder)


@pytest.mark.parametrize(
    "config",
    [{"eval_datasets": [{"path": "pairs.jsonl"}]}, {"test_split_size": 1, "datasets": [{"path": "pairs.jsonl"}]}],
)
@pytest.mark.parametrize("recorded", [{}, {"data": None}, {"data": {"train": {"sources": [{}]}, "test": {}}}])
def test_held_out_rows_that_a_record_does_not_identify_are_an_error(monkeypatch, data, config, recorded):
    monkeypatch.chdir(data)
    with pytest.raises(HfkitError, match=r"held-out rows have changed since|does not identify its held-out rows"):
        find_held_out({"stage": "reward", "config": config, **recorded}, True, 3)


def test_all_problems_are_reported_at_once(sft_dir, reward_dir, tokenizer_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    own = type("OwnConfig", (EvaluateConfig,), {})
    with pytest.raises(ConfigError) as error:
        load_config(
            own,
            {
                "model_name_or_path": str(sft_dir),
                "against": [str(tokenizer_dir), f"r={reward_dir}", f"e={tmp_path / 'empty'}", "no/such/folder"],
                "datasets": "/no/rows.jsonl",
                "max_rows": 0,
                "temperature": -1.0,
                "reward_model": "no/such/reward",
            },
            problems_of,
        )
    reported = {problem.key: problem.remedy for problem in error.value.problems}
    assert reported.keys() == {
        *(f"against[{index}]" for index in range(4)),
        *("datasets[0].path", "max_rows", "temperature", "reward_model"),
    }
    assert "the run of another stage (tokenizer)" in reported["against[0]"]
    assert "of one kind" in reported["against[1]"]
    assert "holds nothing" in reported["against[2]"]
    assert "not a Hub id" in reported["against[3]"]


@pytest.mark.parametrize("stage", ["ppo", "toy"])
def test_a_stage_that_trains_on_prompts_is_held_against_the_model_it_started_from(monkeypatch, sft_dir, stage):
    texts = dict.fromkeys(("module", "help", "title", "purpose"), "")
    spec = StageSpec(name="toy", config_class=None, makes="assistant", form="prompts", **texts)
    monkeypatch.setitem(STAGES, "toy", spec)
    start = {"role": "start", "path": str(sft_dir), "revision": None}
    record = {"stage": stage, "lineage": [{"role": "reward", "path": "gone", "revision": None}, start]}
    assert prompted_start(record) == start
    assert (
        find_held_out(record, False, 3).rows.column_names
        == find_held_out(read_record(sft_dir), False, 3).rows.column_names
    )
    assert prompted_start({**record, "stage": "sft"}) is None
    assert prompted_start({}) is None


def test_two_models_of_one_name_are_refused(sft_dir):
    with pytest.raises(ConfigError, match="is the name of 2 models: write them as NAME=PATH"):
        load_config(EvaluateConfig, {"model_name_or_path": str(sft_dir), "against": [str(sft_dir)]}, problems_of)


def test_the_command_shows_a_table(run_of, sft_dir, capsys):
    assert main(["evaluate", str(run_of(sft_dir)), "--max_prompts", "2", "--response_length", "4"]) == 0
    shown = capsys.readouterr().out
    assert "perplexity" in shown and "evaluation.json" in shown
    assert main(["evaluate", "no/such/model"]) == 2
    assert "no such folder" in capsys.readouterr().err
