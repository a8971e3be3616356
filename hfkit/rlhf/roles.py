"""The four models of PPO: policy, reference, reward, value."""

import copy
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from hfkit.models import load_classifier, load_trainable, quantization_of


@dataclass
class Roles:
    """policy (trained), reference (the SFT model, frozen), reward (frozen), value (trained, begins as the reward)."""

    policy: PreTrainedModel | PeftModel
    reference: PreTrainedModel | PeftModel
    reward: PreTrainedModel | PeftModel
    value: PreTrainedModel | PeftModel


def load_roles(config) -> Roles:
    """Loads the roles of a PPO config.

    Policy and reference begin as the same model, so the first KL is zero; with LoRA they share the frozen base's
    tensors, and so do reward and value. With `use_peft` neither policy nor value trains a weight of its base.
    """
    policy = load_trainable(config)
    reference = copy_sharing_frozen(policy)
    reward = load_classifier(
        config.reward_model_path,
        config.reward_model_revision,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        quantization=quantization_of(config),
        allow_pickle=config.allow_pickle,
    )
    reward.requires_grad_(False)
    value = trainable_value(reward, config)
    return Roles(policy, reference.requires_grad_(False).eval(), reward, value)


def trainable_value(reward: PreTrainedModel | PeftModel, config) -> PreTrainedModel | PeftModel:
    """A copy of the reward model to train: its adapter and head, a new adapter and its head, or all of it."""
    trained = ("lora_", "modules_to_save")
    if isinstance(reward, PeftModel):
        for name, parameter in reward.named_parameters():
            parameter.requires_grad = any(part in name for part in trained)
        value = copy_sharing_frozen(reward)
        reward.requires_grad_(False)
        return value
    if not config.use_peft:
        return copy.deepcopy(reward).requires_grad_(True)
    shape = {"r": config.lora_r or 16, "lora_alpha": config.lora_alpha or 2 * (config.lora_r or 16)}
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        target_modules=config.lora_target_modules or "all-linear",
        modules_to_save=["score"],
        use_rslora=config.use_rslora,
        **shape,
    )
    return get_peft_model(copy_sharing_frozen(reward), lora)


def copy_sharing_frozen(model: PreTrainedModel) -> PreTrainedModel:
    """A module tree of its own that holds the very same frozen parameters and buffers; trainable ones are copied."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return copy.deepcopy(model, memo={id(tensor): tensor for tensor in (*frozen, *model.buffers())})
