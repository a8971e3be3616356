"""The private parts of TRL's GRPO and RLOO that `core/compat_online.py` replaces: each test fails when they move."""

import inspect

import pytest
import trl
from transformers import Trainer

from hfkit.core.compat_online import OwnRollouts, StopTokenizer

BOTH = pytest.mark.parametrize("trainer", [trl.GRPOTrainer, trl.RLOOTrainer])
PRIVATE = [name for name in vars(OwnRollouts) if name.startswith("_") and not name.startswith("__")]


@BOTH
@pytest.mark.parametrize("name", PRIVATE)
def test_the_replaced_parts_exist(trainer, name):
    owner = Trainer if "rng" in name else trainer
    assert name in vars(owner)


@BOTH
def test_generation_takes_these_arguments_and_its_result_is_used_unchanged(trainer):
    given = inspect.signature(trainer._generate_single_turn).parameters
    assert [*given][:4] == ["self", "prompt_ids", "images", "multimodal_fields"]
    source = inspect.getsource(trainer._generate)
    assert "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)" in source
    pair = "completion_ids, logprobs" if trainer is trl.GRPOTrainer else "completion_ids"
    assert f"{pair} = self._generate_single_turn(" in source


@BOTH
def test_predictions_take_these_arguments(trainer):
    given = [*inspect.signature(trainer._get_per_token_logps_and_entropies).parameters]
    assert given[:6] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]


@BOTH
def test_replies_of_an_update_and_passes_have_these_names(trainer):
    source = inspect.getsource(trainer._prepare_inputs)
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in source
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source


@BOTH
def test_the_end_of_a_reply_is_found_by_these_token_ids(trainer):
    old, new = ("self._tokenizer.eos_token_id", "*self.eos_token_ids")
    for method in (trainer._generate, trainer._generate_and_score_completions):
        source = inspect.getsource(method)
        assert any(f"eos_and_pad = [{ids}, self._tokenizer.pad_token_id]" in source for ids in (old, new))
        assert "ids[-1] not in eos_and_pad" in source


def test_each_stop_token_is_an_end():
    tokenizer = StopTokenizer([3, 7], 1)
    assert [token in [tokenizer.eos_token_id, tokenizer.pad_token_id] for token in (3, 7, 1, 4)] == [True] * 3 + [False]
