"""Kernels that a config asks for and that cannot run are refused before a model is loaded."""

import pytest

from hfkit.core.errors import ConfigError
from hfkit.models.loading import cached_config
from hfkit.models.packed_attention import packed_attention


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "flash_attention_2"),
        ("attn_implementation", "flash_attention_3"),
        ("attn_implementation", "varlen"),
        ("use_liger_kernel", True),
    ],
)
def test_kernels_without_a_gpu_are_refused_by_their_key(config_of, tmp_path, stage, key, value):
    with pytest.raises(ConfigError, match="runs on a GPU only") as raised:
        config_of(stage, tmp_path, use_cpu=True, **{key: value})
    assert [problem.key for problem in raised.value.problems] == [key]


def test_ppo_refuses_the_kernels_of_a_loss_that_it_does_not_compute(config_of, tmp_path):
    with pytest.raises(ConfigError) as raised:
        config_of("ppo", tmp_path, use_liger_kernel=True)
    assert [problem.key for problem in raised.value.problems] == ["use_liger_kernel"]


def test_packing_takes_the_attention_that_the_config_names(config_of, base_dir, tmp_path, capsys):
    model_config = cached_config(str(base_dir), "main")
    named = config_of("sft", tmp_path, packing=True, attn_implementation="eager")
    assert packed_attention(named, model_config) == "eager"
    assert capsys.readouterr().out == ""
    assert packed_attention(config_of("sft", tmp_path, packing=True), model_config) is None
    assert "attention is computed over whole rows" in capsys.readouterr().out
