"""The private parts of other libraries that `core/compat_sharding.py` uses: a test fails when upstream moves one."""

import pytest
from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from hfkit.core.compat_sharding import whole_models


def test_models_are_whole_only_in_the_block():
    pytest.importorskip("deepspeed")
    settings = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})  # effective while this object exists
    assert is_deepspeed_zero3_enabled()
    with whole_models():
        assert not is_deepspeed_zero3_enabled()
    assert is_deepspeed_zero3_enabled()
    del settings
    with whole_models():
        pass
    assert not is_deepspeed_zero3_enabled()
