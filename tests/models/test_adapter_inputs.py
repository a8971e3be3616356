"""Under autocast the inputs of adapters stay in 16 bits, with the same results and gradients."""

from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from quick import mostly_slow
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.models.adapter_inputs import keep_input_dtype
from hfkit.rlhf.forward import recompute_activations

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.arange(24).reshape(3, 8)


class Casts(TorchDispatchMode):
    """Counts the copies that change a dtype."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))

    @property
    def casts(self) -> int:
        return self.count[torch.ops.aten._to_copy]


def adapted(**settings):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=64, **SHAPE), dtype=torch.bfloat16)
    settings = {"target_modules": "all-linear", **settings}
    return get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, **settings))


def logits_gradients_and_casts(model, keeps: bool, autocast: bool = True):
    model.zero_grad()
    with Casts() as counted, keep_input_dtype(model, keeps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(input_ids=IDS).logits
        logits.float().logsumexp(-1).sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return logits, gradients, counted.casts


def test_results_and_gradients_are_equal_with_fewer_casts():
    model = adapted()
    logits, gradients, casts = logits_gradients_and_casts(model, keeps=False)
    same_logits, same_gradients, fewer = logits_gradients_and_casts(model, keeps=True)
    assert torch.equal(logits, same_logits)
    assert gradients.keys() == same_gradients.keys() and len(gradients) == 2 * 2 * 7
    assert all(torch.equal(gradient, same_gradients[name]) for name, gradient in gradients.items())
    # to float32 and back, in 7 linear layers of 2 decoder layers; nothing reaches back to the first input, of 3 of them
    assert casts - fewer == 2 * (2 * 7) + 2 * (2 * 7 - 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [5, 6]},
        {"target_modules": ["v_proj"], "target_parameters": ["self_attn.k_proj.weight"]},
    ],
    ids=lambda settings: [*settings][-1],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_adapters_of_any_shape_give_the_same_results(settings, recompute):
    model = adapted(**settings).train()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    if recompute:
        recompute_activations(model)
        model.enable_input_require_grads()
    logits, gradients, casts = logits_gradients_and_casts(model, keeps=False)
    same_logits, same_gradients, fewer = logits_gradients_and_casts(model, keeps=True)
    assert torch.equal(logits, same_logits) and gradients.keys() == same_gradients.keys()
    assert all(torch.equal(gradient, same_gradients[name]) for name, gradient in gradients.items())
    assert fewer < casts


def test_nested_blocks_leave_nothing_behind():
    model = adapted()
    with keep_input_dtype(model, True):
        with keep_input_dtype(model, True):
            pass
        assert logits_gradients_and_casts(model, keeps=False)[2] == logits_gradients_and_casts(model, keeps=True)[2]
    model(input_ids=IDS)  # fails where an input in bf16 meets a weight in float32


@pytest.mark.parametrize(("settings", "autocast"), [({"use_dora": True}, True), ({}, False)])
def test_dora_and_passes_without_autocast_cast_as_before(settings, autocast):
    model = adapted(**settings)
    logits, _, casts = logits_gradients_and_casts(model, keeps=False, autocast=autocast)
    same, _, others = logits_gradients_and_casts(model, keeps=autocast, autocast=autocast)
    assert torch.equal(logits, same) and casts == others


def test_dropout_on_a_cpu_casts_as_before():
    model = adapted(lora_dropout=0.3)
    found = []
    for keeps in (False, True):
        torch.manual_seed(1)
        found.append(logits_gradients_and_casts(model, keeps=keeps))
    (logits, _, casts), (same, _, others) = found
    assert torch.equal(logits, same) and casts == others
    model.eval()
    assert not torch.equal(logits_gradients_and_casts(model, keeps=True)[0], logits)


def test_the_block_leaves_nothing_behind():
    model = adapted()
    with pytest.raises(ZeroDivisionError), keep_input_dtype(model, autocast=True):
        raise ZeroDivisionError
    assert logits_gradients_and_casts(model, keeps=False)[2] > logits_gradients_and_casts(model, keeps=True)[2]
    model(input_ids=IDS)  # fails where an input in bf16 meets a weight in float32


@pytest.mark.parametrize("stage", mostly_slow(["sft", "reward", "dpo", "ppo", "grpo"], ["sft"]))
@pytest.mark.parametrize("recompute", mostly_slow([False, True], [True]))
def test_stages_train_in_16_bits_so(stage, recompute, run_stage, sft_dir, reward_dir, tmp_path):
    seen = Counter()

    def note(module, args):
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad and torch.is_grad_enabled():
            seen[args[0].dtype] += 1

    with register_module_forward_pre_hook(note):
        settings = {"bf16": True, "dtype": "bfloat16", "gradient_checkpointing": recompute, "lora_dropout": 0.0}
        run_stage(stage, tmp_path / "run", **settings, **({} if stage == "ppo" else {"max_steps": 1}))
    assert seen[torch.bfloat16] > seen[torch.float32]
