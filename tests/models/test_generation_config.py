"""A base with an invalid or missing generation config: every stage and merge warn about the change and save it."""

import json

import pytest
from quick import slow
from transformers import AutoModelForCausalLM, GenerationConfig

from hfkit.commands.merge import merge
from hfkit.core.errors import HfkitError
from hfkit.records.record import read_record

UNSET = {"temperature": 0.6, "top_p": 0.9}
GREEDY = {"do_sample": False, **UNSET}
BEAMS = {"length_penalty": 2.0, "max_length": 77}


@pytest.fixture
def base_with(base_dir, copy):
    """base_with(content) -> a copy of the base with this generation_config.json; None removes the file."""

    def make(content: dict | str | None) -> str:
        folder = copy(base_dir)
        file = folder / "generation_config.json"
        if content is None:
            file.unlink()
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    return make


def saved(folder) -> dict:
    config = GenerationConfig.from_pretrained(folder)
    config.validate(strict=True)
    return json.loads((folder / "generation_config.json").read_text())


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sft", {}),
        slow("sft", {"use_peft": None, "lora_r": None}),
        slow("pretrain", {"model_config": {}}),
        slow("ppo", {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}),
        slow("ppo", {"reward_model_path": None, "reward_functions": ["reward_functions:length"], "use_peft": None}),
    ],
)
def test_every_stage_publishes_over_an_invalid_one_and_says_so_first(
    stage, changes, base_with, run_stage, tokenizer_dir, tmp_path, capsys
):
    base = base_with(GREEDY)
    folder = run_stage(stage, tmp_path / "run", model_name_or_path=str(base), **changes)
    assert not saved(folder).keys() & UNSET.keys()
    warned = "saved with changes: temperature: 0.6 removed, top_p: 0.9 removed"
    assert warned in capsys.readouterr().err
    assert any(warned in warning for warning in read_record(folder)["warnings"])


def test_recommended_sampling_without_its_switch_gets_it(base_with, run_stage, tmp_path, capsys):
    folder = run_stage("sft", tmp_path / "run", model_name_or_path=str(base_with(UNSET)))
    assert {"do_sample": True, **UNSET}.items() <= saved(folder).items()
    assert "with changes: do_sample: true added\n" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_valid_stays(base_with, run_stage, tmp_path):
    folder = run_stage("sft", tmp_path / "run", model_name_or_path=str(base_with(BEAMS)))
    assert saved(folder)["max_length"] == 77
    assert not {"length_penalty", "do_sample"} & saved(folder).keys()


def test_a_missing_one_is_made_from_the_model(base_with, run_stage, tmp_path, tokenizer):
    folder = run_stage("sft", tmp_path / "run", model_name_or_path=str(base_with(None)))
    assert saved(folder)["eos_token_id"] in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
    assert read_record(folder)["warnings"] == []


@pytest.mark.parametrize("content", ["{broken", "[1]", '{"max_new_tokens": 0}'])
def test_what_transformers_cannot_read_is_refused_before_training(content, base_with, run_stage, tmp_path):
    base = base_with(content)
    with pytest.raises(HfkitError, match="copy-"):
        run_stage("sft", tmp_path / "run", model_name_or_path=str(base))


def test_merge_publishes_over_an_invalid_one(sft_dir, base_with, tmp_path, capsys):
    merged = merge(str(sft_dir), tmp_path / "merged", base=str(base_with(GREEDY)))
    assert not saved(merged).keys() & UNSET.keys()
    assert "temperature: 0.6 removed" in capsys.readouterr().err
    AutoModelForCausalLM.from_pretrained(merged).save_pretrained(tmp_path / "again")
