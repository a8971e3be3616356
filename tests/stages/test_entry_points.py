"""Python code passes rows, models and functions as objects; the run is that of files with the same content."""

import json
from pathlib import Path

import pytest
from conftest import ROWS, STEPS
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import AutoModelForCausalLM

import hfkit
from hfkit import cli
from hfkit.config.parsing import load_config
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.forms import INSTRUCTIONS
from hfkit.data.given_rows import store_rows
from hfkit.data.splits import load_splits
from hfkit.records.record import read_record, weights_hash
from hfkit.stages.entry_points import as_plain

SMALL = {**STEPS, "max_steps": 1, "max_length": 64, "use_peft": True, "lora_r": 4}


def problems(call, *args, **keys) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        call(*args, **keys)
    return {problem.key: str(problem) for problem in error.value.problems}


def test_rows_in_every_shape_are_read_as_their_file_is(data, base_dir, tmp_path):
    rows = ROWS["turns"]
    shapes = [str(data / "turns.jsonl"), data / "turns.jsonl", {"path": str(data / "turns.jsonl")}, rows, [rows]]
    shapes += [Dataset.from_list(rows), [{"path": Dataset.from_list(rows), "split": "train"}]]
    shapes += [[hfkit.DatasetEntry(path=rows)], hfkit.DatasetEntry(path=str(data / "turns.jsonl"))]
    hashes = set()
    for given in shapes:
        problems = []
        config = load_config(
            hfkit.SFTConfig, as_plain(hfkit.SFTConfig, {"datasets": given}, problems), output_dir="out"
        )
        read, _, stats = load_splits(config, INSTRUCTIONS)
        assert (read.to_list(), problems) == (rows, [])
        hashes.add(stats["train"].sources[0]["sha256"])
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (
            DatasetDict(train=Dataset.from_list(ROWS["turns"])),
            r"it holds the splits train: pass one",
        ),
        (iter(ROWS["turns"]), "expected a path, a Dataset (Dataset.from_pandas"),
        (Dataset.from_list(ROWS["turns"]).to_pandas(), "expected a path, a Dataset (Dataset.from_pandas"),
    ],
)
def test_rows_in_other_objects_are_refused_with_what_to_pass(tmp_path, given, remedy):
    found = problems(hfkit.sft, datasets=given, model_name_or_path="gpt2", output_dir=str(tmp_path / "out"))
    assert found.keys() == {"datasets"} and remedy in found["datasets"]


def test_the_run_is_resumed_on_the_same_rows_and_refused_on_others(base_dir, tmp_path, capsys):
    given = dict(model_name_or_path=str(base_dir), output_dir=str(tmp_path / "out"), **SMALL)
    hfkit.sft(datasets=ROWS["turns"], **given)
    hfkit.sft(datasets=[dict(row) for row in ROWS["turns"]], **given)
    assert "already done" in capsys.readouterr().out
    with pytest.raises(HfkitError, match=r"datasets \(their rows\)"):
        hfkit.sft(datasets=ROWS["turns"][1:], **given)


@pytest.mark.slow
def test_a_loaded_model_is_trained_as_it_is_now(base_dir, tmp_path, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    given = dict(datasets=ROWS["turns"], **SMALL)
    same = hfkit.sft(model_name_or_path=model, output_dir=str(tmp_path / "same"), **given)
    path = hfkit.sft(model_name_or_path=str(base_dir), output_dir=str(tmp_path / "path"), **given)
    assert weights_hash(same) == weights_hash(path)
    assert read_record(same)["lineage"][0]["weights_sha256"] == weights_hash(base_dir)
    model.lm_head.weight.data += 1.0
    other = hfkit.sft(model_name_or_path=(model, tokenizer), output_dir=str(tmp_path / "other"), **given)
    assert weights_hash(other) != weights_hash(path)
    policy, _ = hfkit.load_policy(str(other))
    assert policy.get_base_model().lm_head.weight.data.equal(model.lm_head.weight.data)


@pytest.mark.slow
def test_ppo_with_functions_and_loaded_models(sft_dir, reward_dir, tmp_path):
    calls = []

    def short(prompts, replies, **columns):
        calls.append(len(replies))
        return [-float(len(reply)) for reply in replies]

    folder = hfkit.ppo(
        model_name_or_path=hfkit.load_policy(str(sft_dir)),
        reward_model_path=hfkit.load_reward(str(reward_dir)),
        reward_functions=[short, "reward_functions:length"],
        datasets=ROWS["prompts"],
        output_dir=str(tmp_path / "ppo"),
        use_peft=True,
        max_prompt_length=32,
        response_length=8,
        total_episodes=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    record = read_record(folder)
    name = f"{__name__}:test_ppo_with_functions_and_loaded_models.<locals>.short"
    assert record["config"]["reward_functions"] == [name, "reward_functions:length"]
    assert sum(calls) >= 4
    assert [parent["role"] for parent in record["lineage"]] == ["start", "reward"]


def test_problems_are_reported_by_key(base_dir, tmp_path):
    given = {"model_name_or_path": str(base_dir), "output_dir": str(tmp_path / "out"), "max_length": 64}
    wrong = problems(hfkit.sft, hfkit.SFTConfig(datasets=[{"path": 5}, {"card": "no-such"}], **given))
    assert wrong.keys() == {"datasets[0].path"} and "expected text" in wrong["datasets[0].path"]
    for config, name in (
        (ROWS["turns"], "list"),
        (hfkit.RewardConfig(**given), "RewardConfig"),
        (hfkit.SFTConfig, "type"),
    ):
        with pytest.raises(ConfigError, match=f"config: '{name}' -> expected SFTConfig, a mapping or the path"):
            hfkit.sft(config)
    entry = {"path": "nothing.jsonl", "splt": "x"}
    assert problems(hfkit.sft, datasets=[entry], **given).keys() == {"datasets[0].splt"}
    assert problems(hfkit.sft, datasets="nothing.jsonl", **given).keys() == {"datasets[0].path"}
    both = problems(hfkit.sft, hfkit.SFTConfig(datasets="nothing.jsonl", learning_rate="x", **given))
    assert both.keys() == {"learning_rate", "datasets[0].path"}
    twins = [lambda prompts, replies: [0.0], lambda prompts, replies: [1.0]]
    assert "two functions have the name" in problems(hfkit.ppo, reward_functions=twins, **given)["reward_functions"]
    stream = IterableDataset.from_generator(lambda: iter(ROWS["turns"]))
    assert "expected a path, a Dataset (" in problems(hfkit.sft, datasets=stream, **given)["datasets"]
    assert "row 1: " in problems(hfkit.sft, datasets=[{"text": "a"}, {"text": {1}}], **given)["datasets"]


def test_keys_replace_those_of_a_yaml(data, base_dir, tmp_path):
    (tmp_path / "rows.jsonl").write_text((data / "turns.jsonl").read_text())
    (tmp_path / "run.yaml").write_text(json.dumps({**SMALL, "datasets": "rows.jsonl", "lora_r": 8}))
    folder = hfkit.sft(tmp_path / "run.yaml", lora_r=2, model_name_or_path=base_dir, output_dir=tmp_path / "out")
    assert read_record(folder)["config"]["lora_r"] == 2
    assert read_record(folder)["data"]["train"]["kept"] == len(ROWS["turns"])


def test_rows_are_stored_once_and_by_their_content():
    rows = [{"prompt": "ä", "response": "1e-4"}, {"prompt": "b", "response": "c", "more": None}]
    path = store_rows(rows)
    assert store_rows([dict(row) for row in rows]) == path != store_rows(rows[:1])
    assert [json.loads(line) for line in open(path, encoding="utf-8")] == rows
    table = Dataset.from_list(ROWS["pairs"])
    assert store_rows(table) == store_rows(table.select(range(len(table)))) != store_rows(table.select([0]))


@pytest.mark.parametrize("kind", [list, Dataset.from_list])
def test_messages_do_not_name_the_file_in_which_rows_are_stored(base_dir, tmp_path, capsys, kind):
    settings = {"model_name_or_path": str(base_dir), "output_dir": str(tmp_path / "out"), **SMALL}
    pairs = kind([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3)
    with pytest.raises(HfkitError, match=r"^rows passed from Python: its rows are pairs.*\[\{path: ROWS, columns"):
        hfkit.sft(datasets=pairs, **settings)
    with pytest.raises(HfkitError, match="No row is left"):
        hfkit.sft(datasets=kind([{"prompt": "a", "respons": "b"}] * 3), **settings)
    assert "rows passed from Python: columns not read: respons" in "".join(capsys.readouterr())


def test_a_row_that_cannot_be_read_is_named_by_its_number(base_dir, tmp_path):
    settings = {"model_name_or_path": str(base_dir), "output_dir": str(tmp_path / "out"), **SMALL}
    nested: object = "b"
    for _ in range(400):
        nested = [nested]
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": nested}]
    with pytest.raises(HfkitError, match=r"cannot read rows passed from Python: .*row 1") as reported:
        hfkit.sft(datasets=rows, **settings)
    assert "line" not in str(reported.value) and ".jsonl" not in str(reported.value)


@pytest.mark.slow
def test_cards_reports_and_lineage_name_rows_without_their_file_in_the_cache(base_dir, tmp_path, capsys):
    rows = Dataset.from_list(ROWS["turns"][:8])
    given = {"datasets": ROWS["turns"][8:], "eval_datasets": rows, **SMALL}
    folder = hfkit.sft(model_name_or_path=str(base_dir), output_dir=str(tmp_path / "out"), **given)
    stored = [source["path"] for split in read_record(folder)["data"].values() for source in split["sources"]]
    assert len(stored) == 2
    card = (folder / "README.md").read_text()
    cli.main(["report", str(folder)])
    capsys.readouterr()
    cli.main(["lineage", str(folder)])
    pages = [card, (folder / "report.html").read_text(), capsys.readouterr().out]
    for page in pages:
        assert page.count("rows passed from Python") >= 2
        assert not any(Path(path).name in page for path in stored)
