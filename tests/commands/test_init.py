"""`hfkit init`: its choices, pipelines that run unchanged, and its errors."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import FACTS, NAMES, write_rows
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from quick import slow
from transformers import AutoTokenizer

from hfkit import cli
from hfkit.models.tokenizers import PAD_CANDIDATES
from hfkit.records.record import read_record, weights_hash

LENGTH = "reward_functions:length"
SHORT = ["--total_episodes", "8", "--sft.max_steps", "2", "--reward.max_steps", "2"]
WIDE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4, "num_attention_heads": 32}
WIDE |= {"num_key_value_heads": 8, "head_dim": 128, "dtype": "bfloat16"}
ROWS = {
    "messages": [
        {
            "messages": [
                {"role": "user", "content": f"What does {name} like?"},
                {"role": "assistant", "content": f"{name} likes {colour}."},
            ]
        }
        for name, colour in FACTS
    ],
    "pairs": [
        {"prompt": f"What does {name} like?", "chosen": f"{name} likes {colour}, thank you.", "rejected": colour}
        for name, colour in FACTS
    ],
    "prompts": [{"prompt": f"What does {name} like?"} for name in NAMES * 2],
    "alpaca": [
        {"instruction": f"What does {name} like?", "input": "A colour.", "output": f"{name} likes {colour}."}
        for name, colour in FACTS
    ],
    "alpaca_pairs": [
        {
            "instruction": f"What does {name} like?",
            "input": "A colour.",
            "chosen": f"Likes {colour}.",
            "rejected": "No.",
        }
        for name, colour in FACTS
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"{name}?"}, {"from": "gpt", "value": f"{name} likes {colour}."}]}
        for name, colour in FACTS
    ],
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The names of data files in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    return {name: Path(write_rows(tmp_path / f"{name}.jsonl", rows)).name for name, rows in ROWS.items()}


def init(model, *words: str) -> int:
    return cli.main(["init", "--yes", "--model", str(model), *words])


def read(folder: str = "mine") -> dict[str, dict]:
    """The YAMLs in a folder, by name."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in Path(folder).glob("*.yaml")}


def test_one_file_of_pairs_gives_a_pipeline_that_runs_as_it_is(files, base_dir, capsys):
    assert init(base_dir, "--data", files["pairs"], *SHORT, "--output_dir", "mine") == 0
    shown = capsys.readouterr().out
    assert shown.endswith("next: hfkit run mine/pipeline.yaml\n")
    for stage in ("sft", "reward", "ppo"):
        assert f"{stage}: pairs.jsonl (32 rows)\n" in shown
    assert cli.main(["run", "mine/pipeline.yaml"]) == 0
    records = {stage: read_record(Path("mine/runs") / stage) for stage in ("sft", "reward", "ppo")}
    assert {record["status"] for record in records.values()} == {"done"}
    assert records["ppo"]["lineage"][1]["weights_sha256"] == weights_hash(Path("mine/runs/reward"))
    assert not any(settings.get("load_in_4bit") for settings in read().values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["--data", "messages.jsonl"], ["sft"]),
        (["--data", "messages.jsonl", "pairs.jsonl", "prompts.jsonl"], ["sft", "reward", "ppo"]),
        (["--data", "messages.jsonl", "pairs.jsonl", "--goal", "reward"], ["sft", "reward"]),
        (["--data", "messages.jsonl", "prompts.jsonl", "--reward_functions", LENGTH], ["sft", "ppo"]),
        (["--data", "pairs.jsonl", "--goal", "dpo"], ["sft", "dpo"]),
        (["--data", "pairs.jsonl", "prompts.jsonl", "--goal", "grpo"], ["sft", "reward", "grpo"]),
        (["--data", "prompts.jsonl", "--reward_functions", LENGTH, "--goal", "rloo"], ["rloo"]),
        (["--data", "prompts.jsonl", "--reward_functions", LENGTH, "--seed", "1"], ["ppo"]),
        (["--data", "sharegpt.jsonl"], ["sft"]),
        (["--data", "alpaca.jsonl", "alpaca_pairs.jsonl"], ["sft", "reward", "ppo"]),
        (["--data", "alpaca_pairs.jsonl"], ["sft", "reward", "ppo"]),
    ],
)
def test_other_data_give_pipelines_that_run_unchanged(files, base_dir, words, stages):
    assert init(base_dir, *words, "--output_dir", "mine") == 0
    assert list(read()["pipeline"]["stages"]) == stages
    assert cli.main(["run", "mine/pipeline.yaml"]) == 0
    assert {read_record(Path("mine/runs") / stage)["status"] for stage in stages} == {"done"}


@pytest.mark.slow
def test_each_file_goes_to_the_stages_that_read_it(files, base_dir):
    data = [files[name] for name in ("messages", "pairs", "prompts")]
    words = ["--data", *data, "--sft.seed", "8", "--seed", "7", "--sft.lora_r", "4", "--output_dir", "mine"]
    assert init(base_dir, *words) == 0
    written = read()
    sources = {stage: [one["path"] for one in written[stage]["datasets"]] for stage in ("sft", "reward", "ppo")}
    assert sources == {"sft": ["messages.jsonl"], "reward": ["pairs.jsonl"], "ppo": ["prompts.jsonl"]}
    assert [written[stage]["seed"] for stage in sources] == [8, 7, 7]
    assert (written["sft"]["lora_r"], "lora_r" in written["reward"]) == (4, False)
    assert written["sft"]["model_name_or_path"] == str(base_dir)
    assert "model_name_or_path" not in written["reward"]  # the pipeline gives it the SFT model


@pytest.mark.slow
def test_pairs_of_another_format_are_also_instructions(files, base_dir):
    assert init(base_dir, "--data", files["alpaca_pairs"], "--output_dir", "mine") == 0
    columns = {"prompt": "{instruction}\n\n{input}", "response": "chosen"}
    assert read()["sft"]["datasets"] == [{"path": "alpaca_pairs.jsonl", "columns": columns}]
    written = Path("mine/sft.yaml").read_text()
    assert r'columns: {prompt: "{instruction}\n\n{input}", response: chosen}' in written
    assert read()["reward"]["datasets"] == [{"path": "alpaca_pairs.jsonl"}]


@pytest.mark.slow
def test_lengths_are_those_of_nearly_all_rows(base_dir, tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Who {index}?", "response": "Ann. " * (40 if index < 2 else 4)} for index in range(100)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert init(base_dir, "--data", "rows.jsonl", "--output_dir", "mine") == 0
    sft = read()["sft"]
    short, long = (len(tokenizer("Ann. " * count).input_ids) for count in (4, 40))
    assert short < sft["max_length"] == 64 < long
    assert sft["test_split_size"] == 5 and "max_dropped" not in sft  # SFT only cuts long rows
    assert cli.main(["run", "mine/pipeline.yaml"]) == 0


@pytest.mark.slow
def test_rows_that_a_stage_would_drop_raise_max_dropped(base_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = [{"prompt": "Who? " * 100, "response": "Ann."}] * 2 + [{"prompt": "Who?", "response": "Ann. " * 100}] * 2
    pairs = [{"prompt": "Who?", "chosen": "Ann. " * (100 if index < 2 else 1), "rejected": "x"} for index in range(100)]
    write_rows(tmp_path / "rows.jsonl", long + [{"prompt": "Who?", "response": "Ann."}] * 96)
    write_rows(tmp_path / "pairs.jsonl", pairs)
    assert init(base_dir, "--data", "rows.jsonl", "pairs.jsonl", "--output_dir", "mine") == 0
    for stage in ("sft", "reward"):  # one of 5 held-out rows may be long
        assert 0.2 <= read()[stage]["max_dropped"] <= 0.3, stage


@pytest.fixture
def large(tmp_path, base_dir):
    """A folder with the config of a model of 0.9 billion parameters, and no weights."""
    folder = tmp_path / "large"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((Path(base_dir) / name).read_bytes())
    config = json.loads((Path(base_dir) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **WIDE}))
    return folder


@pytest.mark.slow
def test_a_base_that_does_not_fit_is_in_4_bits_in_every_stage(files, large, capsys):
    stages = ("sft", "reward", "ppo")
    assert init(large, "--data", files["pairs"], "--gpu", "80", "--output_dir", "wide") == 0
    assert not any(read("wide")[stage]["load_in_4bit"] for stage in stages)
    assert init(large, "--data", files["pairs"], "--gpu", "3", "--output_dir", "narrow") == 0
    assert all(read("narrow")[stage]["load_in_4bit"] for stage in stages)
    assert "(a GPU); load_in_4bit True: 16 bits do not fit" in capsys.readouterr().out
    for folder, size in (("wide", "80"), ("narrow", "3")):
        assert cli.main(["plan", f"{folder}/pipeline.yaml", "--gpu", size]) == 0
        assert "does not fit" not in capsys.readouterr().out
    assert init(large, "--data", files["pairs"], "--gpu", "1", "--output_dir", "none") == 1
    assert "does not fit into 1.0 GB (a GPU): it needs " in capsys.readouterr().err
    assert not Path("none").exists()


@pytest.mark.slow
def test_a_model_without_a_chat_template_gets_one(files, base_dir, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in Path(base_dir).iterdir():
        if path.is_file() and path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    assert init("bare", "--data", files["messages"], "--output_dir", "mine") == 0
    assert "bare has no chat template" in capsys.readouterr().out
    assert read()["sft"]["chat_template"] == "zephyr"
    assert cli.main(["data", "check", "mine/pipeline.yaml"]) == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "--model: missing -> the model to start from"),
        (["--model", "BASE"], "--data: missing -> the data: files"),
        (["--model", "BASE", "--data", "none.jsonl"], "--data[0].path: 'none.jsonl' -> no such file"),
        (["--data", "none.jsonl", "--goal", "rewrad"], "--goal: 'rewrad' -> did you mean reward?"),
        slow(
            ["--model", "BASE", "--data", "prompts.jsonl"],
            "--data: missing -> sft can read none of the data: add a file",
        ),
        slow(
            ["--model", "BASE", "--data", "messages.jsonl", "--goal", "ppo"],
            "reward can read none of the data: add a file of pairs or rankings of responses, or name reward functions",
        ),
        (["--model", "BASE", "--data", "pairs.jsonl", "--learning_rat", "1"], "--learning_rat: '1' -> no key of sft"),
        slow(
            ["--model", "BASE", "--data", "messages.jsonl", "--ppo.learning_rate", "1e-5"],
            "--ppo.learning_rate: '1e-5' -> the pipeline's stages are: sft",
        ),
        slow(
            ["--model", "BASE", "--data", "pairs.jsonl", "--goal", "reward", "--reward_functions", LENGTH],
            f"--reward_functions: '{LENGTH}' -> no key of sft, reward",
        ),
        (["--model", "BASE", "--data", "pairs.jsonl", "--sft.output_dir", "x"], "set --output_dir"),
        (["--model", "BASE", "--data", "pairs.jsonl", "--seed", "1", "--seed", "2"], "--seed: ['1', '2'] -> given"),
        (["--model", "BASE", "--data", "pairs.jsonl", "--sft.lora_r", "0"], "sft.lora_r: 0 -> must be above 0"),
        (
            ["--model", "BASE", "--data", "odd.jsonl"],
            "odd.jsonl: no stage can read it\n  sft: odd.jsonl has the",
        ),
    ],
)
def test_problems_are_reported_and_nothing_is_written(files, base_dir, words, problem, capsys):
    write_rows(Path("odd.jsonl"), [{"a": 1, "b": 2}])
    before = sorted(Path().rglob("*"))
    words = [str(base_dir) if word == "BASE" else word for word in words]
    assert cli.main(["init", "--yes", *words, "--output_dir", "mine"]) != 0
    assert problem in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_no_file_is_overwritten(files, base_dir, capsys):
    Path("mine").mkdir()
    Path("mine/reward.yaml").write_text("mine: 1\n")
    assert init(base_dir, "--data", files["pairs"], "--output_dir", "mine") == 2
    assert "--output_dir: 'mine' -> has reward.yaml already: name another folder" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["reward.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("model", [slow("mine"), "."])
def test_the_default_folder_is_not_the_models(files, base_dir, monkeypatch, model):
    shutil.copytree(base_dir, "mine", ignore=shutil.ignore_patterns("checkpoint-*"))
    before = sorted(Path("mine").iterdir())
    start = Path("mine" if model == "." else ".").absolute()
    data = Path(files["messages"]).absolute()
    monkeypatch.chdir(start)
    assert init(model, "--data", str(data)) == 0
    assert sorted(read("mine-pipeline")) == ["pipeline", "sft"]
    monkeypatch.chdir(data.parent)
    assert [path for path in sorted(Path("mine").iterdir()) if path.name != "mine-pipeline"] == before


@pytest.mark.slow
def test_what_flags_give_stays(files, large):
    words = ["--data", files["pairs"], "--gpu", "3", "--goal", "sft", "--output_dir"]
    assert init(large, *words, "eight", "--load_in_8bit", "--per_device_eval_batch_size", "1") == 0
    sft = read("eight")["sft"]
    assert (sft["load_in_8bit"], sft["load_in_4bit"], sft["per_device_eval_batch_size"]) == (True, False, 1)
    assert init(large, *words, "full", "--load_in_4bit", "false") == 1
    assert not Path("full").exists()


@pytest.mark.parametrize(("memory", "status"), [("", 0), slow("8", 0), slow("much", 2)])
def test_on_a_terminal_it_asks_for_what_no_flag_says(files, base_dir, monkeypatch, capsys, memory, status):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    with create_pipe_input() as answers, create_app_session(input=answers, output=DummyOutput()):
        answers.send_text(f"pairs.jsonl messages.jsonl\nreward\n{memory}\n~/here\n")
        assert cli.main(["init", "--model", str(base_dir)]) == status
    shown = capsys.readouterr()
    if status:
        assert "--memory: 'much' -> expected a number of GB above 0" in shown.err and not Path("here").exists()
        return
    assert list(read("here")["pipeline"]["stages"]) == ["sft", "reward"]
    assert ("of 8.0 GB (--memory)" in shown.out) == (memory == "8")


def test_an_open_quote_in_an_answer_is_refused(base_dir, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with create_pipe_input() as answers, create_app_session(input=answers, output=DummyOutput()):
        answers.send_text("my 'rows.jsonl\n")
        assert cli.main(["init", "--model", str(base_dir)]) == 2
    assert '--data: "my \'rows.jsonl" -> close the quote' in capsys.readouterr().err


def test_ctrl_d_ends_the_questions(base_dir, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with create_pipe_input() as answers, create_app_session(input=answers, output=DummyOutput()):
        answers.send_text("\x04")
        assert cli.main(["init", "--model", str(base_dir)]) == 130
    assert capsys.readouterr().err == "hfkit init: interrupted\n"


@pytest.mark.slow
def test_a_tokenizer_without_a_token_to_pad_with_is_refused_with_the_flag(files, base_dir, tmp_path, capsys):
    folder = shutil.copytree(base_dir, tmp_path / "unpadded", ignore=shutil.ignore_patterns("checkpoint-*"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    named = [token for token in PAD_CANDIDATES if token in tokenizer.get_vocab() and token != tokenizer.eos_token]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        for token in named:
            text = text.replace(json.dumps(token), '"<|never|>"')
        (folder / name).write_text(text)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert init(folder, "--data", files["messages"], "--output_dir", "mine") == 2
    assert "--pad_token: missing -> " in capsys.readouterr().err
    assert init(folder, "--data", files["messages"], "--output_dir", "mine", "--pad_token", "<|never|>") == 0
    assert read()["sft"]["pad_token"] == "<|never|>"
