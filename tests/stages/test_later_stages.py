"""What a later stage of a pipeline cannot do with its model is found before the first stage trains."""

import pytest
from conftest import SHAPE
from pipelines import write_pipeline
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.errors import ConfigError
from hfkit.stages.pipeline import run_pipeline
from hfkit.stages.read_configs import read_configs

GRANITE = {**SHAPE, "model_type": "granite", "num_key_value_heads": 2}
LENGTH = {"reward_functions": ["reward_functions:length"]}


def problems_of_pipeline(tmp_path, data, *args, **changes) -> dict[str, str]:
    """The problems that `hfkit run` and `hfkit plan` report, key -> line; nothing is trained."""
    path = write_pipeline(tmp_path, data, *args, **changes)
    reported = []
    for read in (lambda: run_pipeline(path), lambda: read_configs(str(path), None, None, [])):
        with pytest.raises(ConfigError) as error:
            read()
        reported.append({problem.key: str(problem) for problem in error.value.problems})
    assert reported[0] == reported[1]
    assert not list(tmp_path.rglob("hfkit.json"))
    return reported[0]


@pytest.fixture
def granite_dir(tmp_path, base_dir, tokenizer):
    """A model of an architecture that has no sequence classifier."""
    config = AutoConfig.for_model(**GRANITE, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "granite")
    tokenizer.save_pretrained(tmp_path / "granite")
    return tmp_path / "granite"


def test_an_architecture_without_a_classifier(tmp_path, data):
    stages = ["tokenizer", "pretrain", "sft", "reward"]
    problems = problems_of_pipeline(tmp_path, data, stages, pretrain={"model_config": GRANITE})
    assert problems.keys() == {"reward.model_name_or_path"}
    assert "Transformers has none for granite" in problems["reward.model_name_or_path"]


def test_ppo_with_functions_alone_needs_a_classifier_for_its_values(tmp_path, data):
    changes = {"pretrain": {"model_config": GRANITE}, "ppo": LENGTH}
    problems = problems_of_pipeline(tmp_path, data, ["tokenizer", "pretrain", "sft", "ppo"], **changes)
    assert problems.keys() == {"ppo.model_name_or_path"}
    assert "set reward_model_path to a reward model of another one" in problems["ppo.model_name_or_path"]


@pytest.mark.parametrize(
    ("stage", "changes", "refused"),
    [
        ("sft", {}, False),
        ("reward", {}, True),
        ("ppo", {**LENGTH, "reward_model_path": None}, True),
        ("ppo", {}, False),
    ],
)
def test_a_stage_by_itself(config_of, granite_dir, tmp_path, stage, changes, refused):
    changes = {"model_name_or_path": str(granite_dir), **changes}
    if not refused:
        config_of(stage, tmp_path / "out", **changes)
        return
    with pytest.raises(ConfigError) as error:
        config_of(stage, tmp_path / "out", **changes)
    assert [problem.key for problem in error.value.problems] == ["model_name_or_path"]


def test_values_from_a_reward_model_of_another_architecture(run_stage, granite_dir, tmp_path):
    """The way out of the message works."""
    folder = run_stage("ppo", tmp_path / "out", model_name_or_path=str(granite_dir), max_steps=1)
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_context_that_a_later_stage_exceeds(tmp_path, data):
    changes = {"sft": {"max_length": 300}, "ppo": {"max_prompt_length": 250}}
    problems = problems_of_pipeline(tmp_path, data, **changes)
    assert problems.keys() == {"sft.max_length", "ppo.response_length"}
    assert "context of 256 tokens" in problems["ppo.response_length"]


def test_a_base_that_is_quantized_already(config_of, granite_dir, tmp_path):
    config = AutoConfig.from_pretrained(granite_dir)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(granite_dir)
    with pytest.raises(ConfigError, match="quantized already: start from its unquantized original"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(granite_dir), load_in_4bit=True)
