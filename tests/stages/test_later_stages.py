"""What a later stage of a pipeline cannot do with its model is found before the first stage trains."""

import pytest
from pipelines import write_pipeline
from small_models import REGISTERS_CLASSIFIERS
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.errors import ConfigError
from hfkit.stages.pipeline import run_pipeline
from hfkit.stages.read_configs import read_configs

MAMBA = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
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
def mamba_dir(tmp_path, base_dir, tokenizer):
    """A model of an architecture that has no sequence classifier; the generic one cannot compute scores on it."""
    config = AutoConfig.for_model(**MAMBA, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    return tmp_path / "mamba"


def test_an_architecture_without_a_classifier(tmp_path, data):
    stages = ["tokenizer", "pretrain", "sft", "reward"]
    problems = problems_of_pipeline(tmp_path, data, stages, pretrain={"model_config": MAMBA})
    assert problems.keys() == {"reward.model_name_or_path"}
    assert "Transformers has none for mamba" in problems["reward.model_name_or_path"]


def test_ppo_with_functions_alone_needs_a_classifier_only_for_its_values(tmp_path, data):
    """hfkit provides one if Transformers registers it; its scores are not used."""
    stages, changes = ["tokenizer", "pretrain", "sft", "ppo"], {"pretrain": {"model_config": MAMBA}, "ppo": LENGTH}
    if REGISTERS_CLASSIFIERS:
        path = write_pipeline(tmp_path, data, stages, **changes)
        assert [*read_configs(str(path), None, None, [])] == stages
        return
    problems = problems_of_pipeline(tmp_path, data, stages, **changes)
    assert "PPO's value model is a sequence classifier: Transformers has none" in problems["ppo.model_name_or_path"]


@pytest.mark.parametrize(
    ("stage", "changes", "refused"),
    [
        ("sft", {}, False),
        ("reward", {}, True),
        ("ppo", {**LENGTH, "reward_model_path": None}, not REGISTERS_CLASSIFIERS),
        ("ppo", {}, False),
    ],
)
def test_a_stage_by_itself(config_of, mamba_dir, tmp_path, stage, changes, refused):
    changes = {"model_name_or_path": str(mamba_dir), "lora_target_modules": ["in_proj"], **changes}
    if not refused:
        config_of(stage, tmp_path / "out", **changes)
        return
    with pytest.raises(ConfigError) as error:
        config_of(stage, tmp_path / "out", **changes)
    assert [problem.key for problem in error.value.problems] == ["model_name_or_path"]


def test_values_from_a_reward_model_of_another_architecture(run_stage, mamba_dir, tmp_path):
    """The way out of the message works."""
    changes = {"lora_target_modules": ["in_proj"], "max_steps": 1}
    folder = run_stage("ppo", tmp_path / "out", model_name_or_path=str(mamba_dir), **changes)
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_context_that_a_later_stage_exceeds(tmp_path, data):
    changes = {"sft": {"max_length": 300}, "ppo": {"max_prompt_length": 250}}
    problems = problems_of_pipeline(tmp_path, data, **changes)
    assert problems.keys() == {"sft.max_length", "ppo.response_length"}
    assert "context of 256 tokens" in problems["ppo.response_length"]


def test_a_context_of_the_reward_model_that_ppo_exceeds(tmp_path, data, base_dir, tokenizer):
    """It will be made from another base than the policy, with a shorter context."""
    config = AutoConfig.from_pretrained(base_dir)
    config.max_position_embeddings = 64
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    start = {"sft": {"model_name_or_path": str(base_dir)}, "reward": {"model_name_or_path": str(tmp_path / "short")}}
    changes = {**start, "ppo": {"max_prompt_length": 60}}
    problems = problems_of_pipeline(tmp_path, data, ["sft", "reward", "ppo"], **changes)
    assert problems.keys() == {"ppo.reward_model_path"}
    assert "its context is 64 tokens, fewer than" in problems["ppo.reward_model_path"]
    path = write_pipeline(tmp_path, data, ["sft", "reward", "ppo"], **start)  # 32 and 8 tokens fit
    assert [*read_configs(str(path), None, None, [])] == ["sft", "reward", "ppo"]


def test_a_base_that_is_quantized_already(config_of, mamba_dir, tmp_path):
    config = AutoConfig.from_pretrained(mamba_dir)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(mamba_dir)
    with pytest.raises(ConfigError, match="quantized already: start from its unquantized original"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(mamba_dir), load_in_4bit=True)
