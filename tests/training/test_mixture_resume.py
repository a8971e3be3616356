"""A full run of a mixture of experts resumes with the weights of its checkpoint."""

import pytest
import torch
from interruption import stopped_copy
from quick import mostly_slow
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hfkit.core.errors import HfkitError

MIXTRAL = {"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
MIXTRAL |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
TRAINED = {"max_steps": 4, "save_steps": 2, "save_total_limit": None, "learning_rate": 1e-2}
FUNCTIONS = {"reward_model_path": None, "reward_functions": ["reward_functions:length"], "save_steps": 1}
FUNCTIONS |= {"save_total_limit": None}
STAGES = {
    "sft": ({**TRAINED, "lora_r": None}, 2),
    "reward": (TRAINED, 2),
    "dpo": (TRAINED, 2),
    "grpo": (FUNCTIONS, 1),
    "ppo": (FUNCTIONS, 1),
}
"""Stage -> changes of its settings, and the step from which it resumes."""


@pytest.fixture(scope="module")
def mixture(run_stage, tmp_path_factory):
    return str(run_stage("pretrain", tmp_path_factory.mktemp("mixture") / "out", model_config=MIXTRAL, max_steps=1))


@pytest.mark.parametrize("stage", mostly_slow(STAGES, ["sft"]))
def test_it_ends_as_an_uninterrupted_one(stage, run_stage, mixture, tmp_path):
    """Files have a matrix for each expert, and modules one for all: a trainer would ignore those in a checkpoint."""
    settings, step = STAGES[stage]
    changes = {"model_name_or_path": mixture, "use_peft": None, **settings}
    whole = run_stage(stage, tmp_path / "whole", **changes)
    stopped = stopped_copy(whole, tmp_path / "stopped", step)
    run_stage(stage, stopped, **changes, resume_from_checkpoint=True)
    ends = [load_file(folder / "model.safetensors") for folder in (whole, stopped)]
    before = load_file(f"{mixture}/model.safetensors")
    experts = [name for name in ends[0] if "experts.0." in name]
    assert experts and any(not torch.equal(ends[0][name], before[name]) for name in experts)
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


def test_a_checkpoint_with_other_names_is_refused(run_stage, mixture, tmp_path):
    """Older releases saved such checkpoints: their experts would be ignored."""
    changes = {"model_name_or_path": mixture, "use_peft": None, **STAGES["sft"][0]}
    stopped = stopped_copy(run_stage("sft", tmp_path / "whole", **changes), tmp_path / "stopped", 2)
    AutoModelForCausalLM.from_pretrained(mixture).save_pretrained(stopped / "checkpoint-2")
    with pytest.raises(HfkitError, match=r"has no weights named .*mlp.* Choose another output_dir"):
        run_stage("sft", stopped, **changes, resume_from_checkpoint=True)
