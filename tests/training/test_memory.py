"""The planned weights, gradients, optimizer states and activations against tensors that are really allocated."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from planned import CPU, FUNCTIONS, GPT2, LLAMA, LORA, run
from quick import slow
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hfkit.config.fields import DatasetEntry
from hfkit.models.loading import load_trainable
from hfkit.rlhf.roles import load_roles
from hfkit.stages.pretrain import load_or_create_model
from hfkit.training.memory import formulas
from hfkit.training.memory.peak import plan_memory, training_pass
from hfkit.training.memory.rows import replies_per_row
from hfkit.training.memory.shapes import roles_of


def tensor_bytes(tensors) -> int:
    """Bytes of the storages of tensors, each counted once, with what bitsandbytes keeps in addition to a weight."""
    storages = {}
    for tensor in tensors:
        parts = [tensor]
        if (state := getattr(tensor, "quant_state", None)) is not None:
            parts += [state.absmax, state.code]
            parts += [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        storages |= {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    return sum(storages.values())


class Steps:
    """Counts, at each optimizer step within, the gradients and the optimizer's states."""

    def __enter__(self):
        self.hook = register_optimizer_step_post_hook(self.count)
        return self

    def count(self, optimizer, *_):
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.weights = tensor_bytes(trained)
        self.gradients = tensor_bytes([parameter.grad for parameter in trained])
        states = [value for state in optimizer.state.values() for name, value in state.items() if "qmap" not in name]
        self.states = tensor_bytes([value for value in states if torch.is_tensor(value)])

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize(
    ("optim", "options", "count"),
    [
        ("adamw_torch", None, 2),
        ("sgd", None, 0),
        ("sgd", "momentum=0", 0),
        ("sgd", "nesterov=true, momentum=0.9", 1),
        ("grokadamw", None, 3),
        ("schedule_free_sgd", None, 1),
        ("paged_ademamix_8bit", None, 3),
    ],
)
def test_how_many_states_an_optimizer_keeps(optim, options, count):
    assert formulas.state_count(optim, options) == count


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pretrain", {}),
        slow("pretrain", {"model_config": GPT2}),
        ("pretrain", {"optim": "adamw_8bit"}),
        slow("pretrain", {"optim": "sgd"}),
        slow("pretrain", {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"}),
        slow("pretrain", {"optim": "rmsprop", "optim_args": "momentum=0.9"}),
        slow("pretrain", {"optim": "adafactor"}),
        slow("sft", LORA),
        slow("sft", {**LORA, "dtype": "bfloat16"}),
        slow("sft", {"dtype": "bfloat16"}),
        slow("sft", {**LORA, "load_in_4bit": True}),
        slow("sft", {**LORA, "load_in_4bit": True, "use_bnb_nested_quant": False, "lora_target_modules": ["q_proj"]}),
        ("sft", {**LORA, "load_in_4bit": True, "bf16": True, "optim": "adamw_8bit"}),
        slow("reward", {**LORA, "load_in_4bit": True}),
        slow("dpo", LORA),
        ("dpo", {}),
        slow("ppo", LORA),
        slow("ppo", {}),
        slow("ppo", {**LORA, **FUNCTIONS}),
        slow("ppo", FUNCTIONS),
        slow("grpo", LORA),
        slow("rloo", {}),
        slow("grpo", {**LORA, **FUNCTIONS}),
    ],
)
def test_weights_gradients_and_optimizer_are_those_that_are_allocated(stage_for, tokenizer, name, changes):
    stage = stage_for(name, **changes)
    plan = plan_memory(stage, CPU)
    with Steps() as steps:
        run(stage)
    assert sum(role.gradients for role in plan.roles) == steps.gradients
    assert sum(role.optimizer for role in plan.roles) == pytest.approx(steps.states, rel=0.01)
    trained = [weight for role in roles_of(stage) for weight in role.trained]
    assert formulas.weight_bytes(trained) == steps.weights
    if name == "ppo":
        return
    if name == "pretrain":
        model = load_or_create_model(stage.config, tokenizer)
    else:
        model = load_trainable(stage.config, "SEQ_CLS" if name == "reward" else "CAUSAL_LM")
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert plan.roles[0].weights == pytest.approx(tensor_bytes(frozen) + steps.weights, rel=0.01)
    assert plan.roles[0].parameters == pytest.approx(counted(model), rel=1e-6)


@pytest.mark.parametrize(
    "shape",
    [
        {"rank_pattern": {"q_proj": 2}, "use_dora": True},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        slow({"layers_to_transform": [1, 2]}),
        slow({"target_parameters": ["self_attn.k_proj.weight"]}),
        slow({"trainable_token_indices": [5, 6]}),
    ],
    ids=lambda shape: next(iter(shape)),
)
def test_an_adapter_of_any_shape_is_sized_as_peft_makes_it(shape, stage_for, llama, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama)
    model = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **shape}))
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    for name in ("sft", "reward"):
        stage = stage_for(name, **LORA, model_name_or_path=str(tmp_path / "theirs"))
        trained = [p for p in load_trainable(stage.config, stage.task).parameters() if p.requires_grad]
        assert formulas.weight_bytes(roles_of(stage)[0].trained) == tensor_bytes(trained)


def counted(model) -> int:
    """Parameters of a model, those that are packed two a byte among them."""
    return sum(torch.Size((getattr(p, "quant_state", None) or p).shape).numel() for p in model.parameters())


def test_8_bit_weights_are_those_that_bitsandbytes_holds(stage_for, llama):
    quantization = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(llama, quantization_config=quantization, dtype=torch.float32)
    scales = [parameter.SCB for parameter in model.parameters() if getattr(parameter, "SCB", None) is not None]
    frozen = [
        weight for weight in roles_of(stage_for("sft", **LORA, load_in_8bit=True))[0].weights if not weight.adapter
    ]
    assert len(scales) == sum(weight.bits == 8 for weight in frozen) == 4 * 7
    assert formulas.weight_bytes(frozen) == tensor_bytes([*model.parameters(), *scales])


def test_with_lora_the_roles_of_ppo_share_one_base(stage_for, folder_of, tmp_path):
    base = folder_of(LLAMA)
    reward = Path(shutil.copytree(base, tmp_path / "reward"))
    adapter = {"base_model_name_or_path": base, "task_type": "SEQ_CLS", "peft_type": "LORA", "r": 16}
    (reward / "adapter_config.json").write_text(json.dumps({**adapter, "target_modules": "all-linear"}))
    plan = plan_memory(stage_for("ppo", **LORA, model_name_or_path=base, reward_model_path=str(reward)), CPU)
    policy, reference, reward, value = plan.roles
    assert policy.weights > 4 * (reference.weights + reward.weights + value.weights) / 3
    assert [role.trainable > 0 for role in plan.roles] == [True, False, False, True]
    assert reference.weights == 4 * policy.trainable
    assert reward.weights == value.weights == 4 * value.trainable
    assert policy.parameters == reference.parameters > reward.parameters == value.parameters


@pytest.fixture
def other_scorer(folder_of, tokenizer) -> str:
    """A reward model that is wider than the policy, and has a token more."""
    folder = folder_of({**LLAMA, "hidden_size": 128, "vocab_size": len(tokenizer) + 1}, labels=1)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<other>"])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "has_other_vocabulary"),
    [
        *(slow(changes, False) for changes in ({}, LORA, FUNCTIONS)),
        ({**LORA, **FUNCTIONS}, False),
        slow({}, True),
        (LORA, True),
    ],
)
def test_the_models_of_ppo_hold_what_is_planned(stage_for, other_scorer, changes, has_other_vocabulary):
    if has_other_vocabulary:
        changes = {"reward_model_path": other_scorer, **changes}
    stage = stage_for("ppo", **changes)
    plan, roles = plan_memory(stage, CPU), load_roles(stage.config)
    models = [roles.policy, roles.reference, *([roles.reward] if roles.reward else []), roles.value]
    assert [role.name for role in plan.roles] == ["policy", "reference", *["reward"] * bool(roles.reward), "value"]
    planned = sum(role.weights for role in plan.roles)
    assert planned == pytest.approx(tensor_bytes([p for model in models for p in model.parameters()]), rel=0.01)
    for role, model in zip(plan.roles, models, strict=True):
        assert role.parameters == pytest.approx(counted(model), rel=0.001)
        assert role.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pretrain", {}),
        ("pretrain", {"bf16": True}),
        ("pretrain", {"attn_implementation": "eager"}),
        ("pretrain", {"gradient_checkpointing": True}),
        ("pretrain", {"model_config": {**LLAMA, "num_key_value_heads": 4}}),
        ("sft", {}),
        ("sft", LORA),
        ("sft", {"use_peft": True}),
        slow("sft", {"use_peft": True, "bf16": True}),
        slow("sft", {**LORA, "bf16": True}),
        slow("sft", {**LORA, "dtype": "bfloat16"}),
        slow("sft", {**LORA, "dtype": "bfloat16", "bf16": True}),
        ("sft", {**LORA, "attn_implementation": "eager"}),
        ("sft", {**LORA, "gradient_checkpointing": True}),
        slow("sft", {**LORA, "use_dora": True}),
        ("sft", {**LORA, "use_dora": True, "bf16": True}),
        ("reward", LORA),
    ],
)
def test_activations_are_what_autograd_saves(stage_for, tokenizer, name, changes):
    stage = stage_for(name, **changes)
    if name == "pretrain":
        model = load_or_create_model(stage.config, tokenizer)
    else:
        model = load_trainable(stage.config, "SEQ_CLS" if name == "reward" else "CAUSAL_LM")
    if stage.config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    role = roles_of(stage)[0]
    length = stage.config.block_size if name == "pretrain" else stage.config.max_length
    assert kept_by(model, name, length, stage.config.bf16) == pytest.approx(
        formulas.kept_bytes(role.decoder, training_pass(stage, role, 3, length, CPU)), rel=0.05
    )


def kept_by(model, name: str, length: int, bf16: bool | None) -> int:
    """Bytes that autograd keeps of a forward pass on 3 rows, parameters apart; of SFT and reward, one is padded."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(5, 200, (3, length))
    mask = torch.ones_like(ids)
    if name != "pretrain":
        mask[0, -9:] = 0
    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bool(bf16)),
    ):
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    return tensor_bytes(kept.values())


@pytest.mark.parametrize(
    ("entry", "replies"),
    [({"card": "nectar"}, 7), ({"card": "ultrafeedback"}, 2), ({"path": "owner/name"}, 2)],
)
def test_replies_of_a_row_are_those_that_its_source_tells_of(stage_for, entry, replies):
    """Rankings of a local file are read above."""
    stage = stage_for("reward", **LORA)
    config = replace(stage.config, datasets=[DatasetEntry(**entry)])
    assert replies_per_row(stage.spec, config) == replies
