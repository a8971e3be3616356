"""Values that Transformers accepts for a key that hfkit shares: read as hfkit's own, or reported with a remedy."""

import pytest

from hfkit.config.parsing import load_config, parse
from hfkit.config.stages import GRPOConfig, SFTConfig
from hfkit.core.errors import ConfigError

READ_AS = [
    ("bf16", "auto", None),
    ("gradient_checkpointing", "auto", None),
    ("resume_from_checkpoint", "latest", True),
    ("resume_from_checkpoint", None, False),
    ("report_to", ["tensorboard"], ["tensorboard"]),
    ("report_to", None, "none"),
    ("eval_strategy", False, "no"),
    ("save_strategy", False, "no"),
    ("hub_revision", None, "main"),
    ("dtype", "bf16", "bfloat16"),
    ("dtype", "torch.float16", "float16"),
]


def test_grpos_scale_rewards_may_be_true_or_false():
    found = [load_config(GRPOConfig, {"output_dir": "out", "scale_rewards": value}) for value in (True, False)]
    assert [config.scale_rewards for config in found] == ["group", "none"]


@pytest.mark.parametrize(("key", "value", "read"), READ_AS)
def test_values_of_transformers_are_read_as_hfkits_own(key, value, read):
    assert getattr(load_config(SFTConfig, {"output_dir": "out", key: value}), key) == read


@pytest.mark.parametrize(
    ("flags", "key", "read"),
    [
        (["--bf16", "auto"], "bf16", None),
        (["--report_to", "tensorboard", "trackio"], "report_to", ["tensorboard", "trackio"]),
        (["--report_to", "none"], "report_to", "none"),
        (["--resume_from_checkpoint", "true"], "resume_from_checkpoint", True),
        (["--dtype", "bf16"], "dtype", "bfloat16"),
    ],
)
def test_values_of_transformers_are_read_from_flags_too(flags, key, read):
    assert getattr(parse(SFTConfig, ["--output_dir", "out", *flags], "hfkit sft", ""), key) == read


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("resume_from_checkpoint", "runs/a/checkpoint-5", "true resumes .* name it in model_name_or_path"),
        ("save_strategy", "best", "set load_best_model_at_end: true and save_strategy as eval_strategy"),
        ("max_length", None, "set at most the model's context"),
    ],
)
def test_values_of_transformers_that_hfkit_cannot_use_have_a_remedy(key, value, remedy):
    with pytest.raises(ConfigError, match=f"{key}: .* {remedy}"):
        load_config(SFTConfig, {"output_dir": "out", key: value})
