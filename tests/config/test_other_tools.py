"""Keys and verbs of other tools are errors that name those of hfkit."""

from pathlib import Path

import pytest

from hfkit import cli
from hfkit.config import other_tools
from hfkit.config.evaluation import ArenaConfig, EvaluateConfig
from hfkit.config.fields import DatasetEntry
from hfkit.config.other_tools import table
from hfkit.config.parsing import load_config, parse
from hfkit.config.registry import STAGES
from hfkit.config.stages import PPOConfig, PretrainConfig, SFTConfig
from hfkit.config.validation import find_hint, known_fields
from hfkit.core.errors import ConfigError
from hfkit.core.yaml import read_yaml

CLASSES = [*(spec.config_class for spec in STAGES.values()), EvaluateConfig, ArenaConfig, DatasetEntry]


def remedies(config_class, **given) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        load_config(config_class, {"output_dir": "out", **given})
    return {problem.key: problem.remedy for problem in error.value.problems}


@pytest.mark.parametrize(
    ("config_class", "key", "value", "remedy"),
    [
        (SFTConfig, "base_model", "gpt2", "unknown; hfkit calls it model_name_or_path"),
        (SFTConfig, "cutoff_len", 512, "unknown; hfkit calls it max_length"),
        (PretrainConfig, "sequence_len", 512, "unknown; hfkit calls it block_size"),
        (PPOConfig, "cutoff_len", 512, "unknown; hfkit calls it max_prompt_length"),
        (SFTConfig, "lora_rank", 8, "unknown; hfkit calls it lora_r"),
        (SFTConfig, "micro_batch_size", 2, "unknown; hfkit calls it per_device_train_batch_size"),
        (SFTConfig, "num_epochs", 3, "unknown; hfkit calls it num_train_epochs"),
        (SFTConfig, "val_set_size", 0.1, "unknown; hfkit calls it test_split_size"),
        (SFTConfig, "quantization_bit", 4, "unknown; 4 is load_in_4bit: true, 8 is load_in_8bit: true, each with"),
        (
            SFTConfig,
            "adapter",
            "qlora",
            "unknown; lora is use_peft: true; qlora is use_peft: true and load_in_4bit: true",
        ),
        (SFTConfig, "finetuning_type", "lora", "unknown; lora is use_peft: true"),
        (SFTConfig, "dataset", "alpaca", "unknown; list files, Hub ids or data cards: datasets: [FILE, ...]"),
        (SFTConfig, "template", "llama3", "unknown; hfkit uses the tokenizer's own template"),
        (SFTConfig, "default_system", "Be kind.", "unknown; hfkit calls it system_prompt"),
        (SFTConfig, "additional_target", "lm_head", "unknown; hfkit calls it modules_to_save"),
        (SFTConfig, "peft_use_dora", True, "unknown; hfkit calls it use_dora"),
        (SFTConfig, "enable_thinking", False, "unknown; chat_template_kwargs: {enable_thinking: false}"),
        (PPOConfig, "ppo_score_norm", True, "unknown; hfkit calls it normalize_rewards"),
        (SFTConfig, "use_badam", True, "unknown; remove it (--help lists the keys)"),
        (SFTConfig, "use_galore", True, "unknown; set optim: galore_adamw and optim_target_modules"),
        (SFTConfig, "stage", "sft", "unknown; the verb is the stage (hfkit sft FILE, hfkit dpo FILE): remove it"),
    ],
)
def test_a_key_of_another_tool_is_an_error_that_names_ours(config_class, key, value, remedy):
    found = remedies(config_class, **{key: value})
    assert found.keys() == {key} and found[key].startswith(remedy)


def test_a_flag_and_a_key_of_an_entry():
    with pytest.raises(ConfigError, match=r"--lora_rank: '8' -> unknown; hfkit calls it --lora_r\n"):
        parse(SFTConfig, ["--output_dir", "out", "--lora-rank", "8", "--num_epochs", "x"], "hfkit sft", "")
    found = remedies(SFTConfig, datasets=[{"path": "a.jsonl", "type": "alpaca"}])
    assert found["datasets[0].type"].startswith("unknown; hfkit detects the format by its columns")


def test_what_a_key_stands_for_is_not_reported_as_missing_too():
    from hfkit.stages.checks.stage import problems_of

    with pytest.raises(ConfigError) as error:
        load_config(SFTConfig, {"output_dir": "out", "base_model": "x", "dataset": "y"}, problems_of)
    assert [problem.key for problem in error.value.problems] == ["base_model", "dataset"]


def test_every_line_of_the_table_is_shown_somewhere_and_names_keys_that_there_are():
    known = {name for one in CLASSES for name in known_fields(one)}
    for key, line in table()["keys"].items():
        assert {*line} <= {"use", "say", "set", "same", "leave"} and {*line.get("use", [])} <= known, key
        assert "use" in line or "say" in line, key
        readers = [one for one in CLASSES if find_hint(one, key) == (None, "")]
        readers = [one for one in readers if not line.get("use") or {*line["use"]} & {*known_fields(one)}]
        assert readers, f"{key} is never shown"


@pytest.mark.parametrize("verb", ["orpo", "train", "api", "webchat", "merge-lora"])
def test_a_verb_of_another_tool_is_an_error_that_names_ours(verb, capsys):
    assert cli.main([verb, "x.yaml"]) == 2
    assert capsys.readouterr().err == f"hfkit: unknown verb {verb!r}; {table()['verbs'][verb]}\n"


def test_verbs_that_are_named_exist():
    for advice in table()["verbs"].values():
        words = [part.split()[1] for part in advice.split("`")[1::2] if part.startswith("hfkit ")]
        assert {*words} - {"--version"} <= {*cli.all_verbs()}


def test_a_verb_of_hfkit_is_not_listed_as_one_of_another_tool():
    assert not {*table()["verbs"]} & {*cli.all_verbs()}


def test_no_line_of_the_table_is_given_twice():
    problems = []
    assert read_yaml(str(Path(other_tools.__file__).with_suffix(".yaml")), problems) == table() and problems == []
