"""What `hfkit init --from` writes and prints, and what it refuses without writing anything."""

import json
from pathlib import Path

import pytest
import yaml

from hfkit.cli import main
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES


def test_the_stage_runs(base_dir, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    mine = {"file_name": str(data / "turns.jsonl"), "columns": {"prompt": "prompt", "response": "response"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"mine": mine}))
    theirs = f"model_name_or_path: {base_dir}\nstage: sft\nfinetuning_type: lora\ndataset: mine\noutput_dir: theirs\n"
    (tmp_path / "lf.yaml").write_text(theirs + "cutoff_len: 64\nuse_badam: true\nwandb_api_key: 0123456789abcdef\n")
    assert main(["init", "--from", "lf.yaml"]) == 0
    printed = capsys.readouterr().out
    assert (
        "to decide: use_badam: True -> hfkit has no such key\n" in printed and "next: hfkit sft sft.yaml\n" in printed
    )
    written = (tmp_path / "sft.yaml").read_text()
    assert "# - use_badam: True" in written and "0123456789" not in written + printed
    config = load_config(STAGES["sft"].config_class, str(tmp_path / "sft.yaml"))
    assert (config.lora_r, config.max_length, config.num_train_epochs, config.output_dir) == (8, 64, 3.0, "theirs")
    assert main(["sft", "sft.yaml", "--max_steps", "1"]) == 0
    assert (tmp_path / "theirs" / "adapter_model.safetensors").is_file()
    assert main(["init", "--from", "lf.yaml"]) == 2 and (tmp_path / "sft.yaml").read_text() == written


@pytest.mark.parametrize(
    ("text", "flags", "reported"),
    [
        ("stage: kto\nlora_rank: 8", [], "stage: 'kto' -> hfkit has no KTO"),
        ("stage: dpo\npref_loss: orpo", [], "pref_loss: 'orpo' -> hfkit has no ORPO"),
        ("stage: dpo\npref_loss: simpo", [], "pref_loss: 'simpo' -> hfkit has no SimPO"),
        ("stage: dpo\npref_loss: kto_pair", [], "pref_loss: 'kto_pair' -> hfkit has no KTO"),
        ("base_model: m\nrl: simpo", [], "rl: 'simpo' -> hfkit translates these: dpo, grpo"),
        ("learning_rate: 1", [], "--from: 'theirs.yaml' -> for none of these tools"),
        ("- a\n- b", [], "expected a mapping"),
        ("", [], "expected a mapping"),
        ("lora_rank: 8\nlora_rank: 9", [], "given twice"),
        ("a: !!python/object/apply:os.getcwd []", [], "not valid YAML"),
        ("dataset_name: d", [], "--goal: missing -> a config of TRL does not show its stage"),
        ("dataset_name: d", ["--goal", "tokenizer"], "--goal: 'tokenizer' -> "),
        ("lora_rank: 8", ["--goal", "dpo"], "--goal: 'dpo' -> the file is for sft"),
        ("trl kto --dataset_name d", [], "hfkit has no KTO"),
        ("trl sft --config c.yaml", [], "config: 'c.yaml' -> cannot be read: No such file or directory"),
        ("llamafactory-cli train c.yaml", [], "--from: 'c.yaml' -> the command names this file"),
        ("trl sft --dataset_name $DATA", [], "--dataset_name: '$DATA' -> variables of the shell are not read"),
        ("lora_rank: 8", ["--model", "m", "--seed", "1"], "--seed: 'with --from' -> "),
    ],
)
def test_what_cannot_be_translated_is_refused_and_nothing_is_written(
    text, flags, reported, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(text)
    assert main(["init", "--from", "theirs.yaml", *flags]) == 2
    assert reported in capsys.readouterr().err and [*tmp_path.iterdir()] == [tmp_path / "theirs.yaml"]


def test_no_text_of_the_file_leaves_its_comment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(json.dumps({"lora_rank": 8, "a\nseed: 1": 2, "template": "x\nseed: 2"}))
    assert main(["init", "--from", "theirs.yaml"]) == 0
    assert "seed" not in yaml.safe_load(Path("sft.yaml").read_text())
