"""Other engines get each weight as it is in the files of the model, experts one by one."""

import pytest
import torch
from quick import slow
from safetensors.torch import load_file
from tiny_architectures import tiny_model
from transformers import CONFIG_MAPPING

from hfkit.models.loading import load_base
from hfkit.models.named_weights import named_weights, naming_fault


@pytest.mark.parametrize("model_type", ["qwen3_moe", slow("mixtral"), slow("gpt_oss"), "qwen3"])
def test_weights_are_those_of_the_files(tmp_path, model_type):
    """A model has its experts in one tensor; the files of most mixtures have a matrix for each."""
    tiny_model(model_type).save_pretrained(tmp_path)
    stored, model = load_file(tmp_path / "model.safetensors"), load_base(str(tmp_path))
    weights = named_weights(model)
    assert sorted(one.name for one in weights) == sorted(stored) and naming_fault(model) is None
    assert len(weights) > len([*model.parameters()]) or model_type in ("gpt_oss", "qwen3")
    for one in weights:
        assert (one.dtype, one.shape) == (stored[one.name].dtype, [*stored[one.name].shape])
        assert torch.equal(one.value(), stored[one.name]), one.name


@pytest.mark.skipif("sarvam_moe" not in CONFIG_MAPPING, reason="these Transformers have no such model")
def test_files_that_join_what_is_separate_in_the_model(tmp_path):
    tiny_model("sarvam_moe").save_pretrained(tmp_path)
    assert "join weights" in naming_fault(load_base(str(tmp_path)))
