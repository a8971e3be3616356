"""Fails when upstream moves what `hfkit.core.compat_sharding` needs."""

from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from hfkit.core.compat_sharding import whole_models


def test_models_are_whole_in_the_block_alone():
    settings = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})  # as long as it lives
    assert is_deepspeed_zero3_enabled()
    with whole_models():
        assert not is_deepspeed_zero3_enabled()
    assert is_deepspeed_zero3_enabled()
    del settings
    with whole_models():
        pass
    assert not is_deepspeed_zero3_enabled()
