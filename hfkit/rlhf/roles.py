"""The four models of PPO: policy, reference, reward, value."""

import copy
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from hfkit.adapters import with_adapter
from hfkit.base import same_base
from hfkit.console import say
from hfkit.models import load_base, load_classifier, load_trainable, loading_options, reward_source, under_adapter
from hfkit.rlhf.shared_base import classifier_over, copy_sharing_frozen
from hfkit.source import Source


@dataclass
class Roles:
    """policy (trained), reference (the SFT model, frozen), reward (frozen), value (trained, begins as the reward)."""

    policy: PreTrainedModel | PeftModel
    reference: PreTrainedModel | PeftModel
    reward: PreTrainedModel | PeftModel
    value: PreTrainedModel | PeftModel


def load_roles(config) -> Roles:
    """Loads the roles of a PPO config.

    With LoRA all four are adapters on one frozen base, held once, if the reward model is an adapter on the policy's
    base; otherwise policy and reference share one base, and reward and value another. In full fine-tuning each role is
    a model of its own. Policy and reference begin as the same model, so the first KL is zero.
    """
    policy, reward = on_one_base(config) or apart(config)
    reference = copy_sharing_frozen(policy) if config.use_peft else copy.deepcopy(policy)
    reward.requires_grad_(False)
    value = trainable_value(reward, config)
    return Roles(policy, reference.requires_grad_(False).eval(), reward, value)


def on_one_base(config) -> tuple[PeftModel, PeftModel] | None:
    """Policy and reward model as adapters on one base, or None where they cannot be (and why is said)."""
    source = Source.of(config.model_name_or_path, config.model_revision)
    scorer = reward_source(config.reward_model_path, config.reward_model_revision)
    if not config.use_peft:
        say("ppo: full fine-tuning trains every weight, so each role is loaded in full; use_peft: true shares one base")
        return None
    if scorer.adapter is None or not same_base(source, scorer):
        say(f"ppo: the reward model stands on {scorer.base}, the policy on {source.base}: two bases are loaded")
        return None
    base = load_base(source.base, source.base_revision, **loading_options(config)).requires_grad_(False)
    classifier = classifier_over(base)
    if classifier is None:
        say(f"ppo: the classifier of {type(base).__name__} has a backbone of its own: two bases are loaded")
        return None
    policy = under_adapter(base, config, source, TaskType.CAUSAL_LM)
    return policy, with_adapter(classifier, scorer).eval()


def apart(config) -> tuple[PreTrainedModel | PeftModel, PreTrainedModel | PeftModel]:
    """Policy and reward model, each with its own base."""
    policy = load_trainable(config)
    return policy, load_classifier(config.reward_model_path, config.reward_model_revision, **loading_options(config))


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
