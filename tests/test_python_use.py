"""The Python API: the names of `hfkit`, a policy that generates, a reward model that scores."""

import pytest
import torch

import hfkit
from hfkit.data.chat_template import encode_prompt

PROMPTS = ["What does Ann like?", [{"role": "user", "content": "What does Bob, of all people, like?"}]]
REPLIES = ["Ann likes red, thank you.", "blue"]


def test_every_name_is_importable():
    assert {*hfkit.__all__, "sft", "SFTConfig", "dpo", "DPOConfig"} <= {*dir(hfkit)}
    for name in dir(hfkit):
        assert getattr(hfkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hfkit.nothing


@pytest.mark.parametrize("folder", ["base_dir", "sft_dir", "ppo_dir"])
def test_a_policy_generates_with_its_saved_generation_config(folder, request, tokenizer):
    model, loaded = hfkit.load_policy(str(request.getfixturevalue(folder)))
    assert not model.training
    assert loaded.get_vocab() == tokenizer.get_vocab()
    ids = torch.tensor([encode_prompt(loaded, PROMPTS[0])])
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)[0, ids.shape[1] :].tolist()
    assert 0 < len(generated) <= 8
    assert loaded.eos_token_id not in generated[:-1]


def test_a_policys_batch_of_two_equals_two_batches_of_one(sft_dir):
    model, tokenizer = hfkit.load_policy(sft_dir)
    rows = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    options = {"max_new_tokens": 6, "do_sample": False}
    together = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **options)
    for row, ids in enumerate(rows):
        ids = torch.tensor([ids])
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
        assert together[row, batch["input_ids"].shape[1] :][: len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_a_policy_is_loaded_in_the_dtype_asked_for(base_dir, dtype):
    model, _ = hfkit.load_policy(str(base_dir), dtype=dtype)
    assert model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)


def test_pain_23_a_rewards_batch_of_two_equals_two_batches_of_one(reward_dir):
    reward = hfkit.load_reward(str(reward_dir))
    together = reward(PROMPTS, REPLIES)
    assert (together.shape, together.dtype) == ((2,), torch.float32)
    assert torch.allclose(together, reward(PROMPTS, REPLIES, batch_size=1), atol=1e-6)
    assert torch.allclose(together.flip(0), reward(PROMPTS[::-1], REPLIES[::-1]), atol=1e-6)
    assert together[0] != together[1]


def test_a_reward_needs_one_response_per_prompt(reward_dir):
    reward = hfkit.load_reward(reward_dir)
    assert reward([], []).shape == (0,)
    with pytest.raises(ValueError, match="shorter"):
        reward(PROMPTS, REPLIES[:1])
