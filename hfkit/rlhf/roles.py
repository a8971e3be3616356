"""The four models of PPO: policy, reference, reward, value."""

import copy
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from hfkit.core.console import say
from hfkit.models.adapters import with_adapter
from hfkit.models.loading import (
    load_base,
    load_classifier,
    load_tokenizer,
    load_trainable,
    loading_options,
    reward_source,
    under_adapter,
)
from hfkit.models.score_head import hold_head_in_float32, with_exact_head
from hfkit.records.base import same_base
from hfkit.records.source import Source
from hfkit.rlhf.scores import reward_tokenizer
from hfkit.rlhf.shared_base import classifier_over, copy_sharing_frozen


@dataclass
class Roles:
    """policy (trained), reference (the SFT model, frozen), reward (frozen; None where functions alone score), value
    (trained, begins as the reward model if that has the policy's vocabulary, else as the SFT model with a head of
    zeros). Values are computed in float32."""

    policy: PreTrainedModel | PeftModel
    reference: PreTrainedModel | PeftModel
    reward: PreTrainedModel | PeftModel | None
    value: PreTrainedModel | PeftModel

    def __post_init__(self):
        with_exact_head(self.value)


def load_roles(config) -> Roles:
    """Loads the roles of a PPO config.

    With LoRA all four are adapters on one frozen base, held once, if the reward model is an adapter on the policy's
    base; otherwise policy and reference share one base, and reward and value another. In full fine-tuning each role is
    a model of its own. Policy and reference begin as the same model, so the first KL is zero.
    """
    source = Source.of(config.model_name_or_path, config.model_revision)
    scorer = reward_source(config.reward_model_path, config.reward_model_revision) if config.reward_model_path else None
    why_not = why_apart(config, source, scorer)
    classifier = None
    if why_not is None:
        base = load_base(source.base, source.base_revision, **loading_options(config)).requires_grad_(False)
        classifier = classifier_over(base)
        policy = under_adapter(base, config, source, TaskType.CAUSAL_LM)
        why_not = None if classifier else f"{type(base).__name__} and its classifier have different backbones"
    else:
        policy = load_trainable(config)
    if why_not:
        say(f"ppo: {why_not}, so each is loaded")
    reference = copy_sharing_frozen(policy) if config.use_peft else copy.deepcopy(policy)
    begun = scorer is not None and reads_as_policy(config)
    other = copy_sharing_frozen(classifier) if classifier and not begun else None  # adapters go into a model's modules
    reward = reward_model(config, scorer, classifier) if scorer else None
    value = trainable_value(reward, config) if begun else new_value(config, source, other)
    return Roles(policy, reference.requires_grad_(False).eval(), reward, value)


def reads_as_policy(config) -> bool:
    """Whether the reward model has the policy's vocabulary; a value model reads what the policy writes."""
    policy = load_tokenizer(config.model_name_or_path, config.model_revision, config.pad_token)
    return reward_tokenizer(config).get_vocab() == policy.get_vocab()


def why_apart(config, source: Source, scorer: Source | None) -> str | None:
    """Why policy and value model cannot stand on one base, or None where they can."""
    if not config.use_peft:
        return "full fine-tuning trains every weight of policy and value model (use_peft: true shares one base)"
    if scorer and (scorer.adapter is None or not same_base(source, scorer)):
        return f"the policy stands on {source.base}, and the reward model on {scorer.base}"
    return None


def reward_model(config, scorer: Source, classifier: PreTrainedModel | None) -> PreTrainedModel | PeftModel:
    """The reward model, frozen: its adapter on the classifier over the shared base, or loaded by itself."""
    if classifier is not None:
        model = with_adapter(classifier, scorer)
    else:
        model = load_classifier(config.reward_model_path, config.reward_model_revision, **loading_options(config))
    return model.eval().requires_grad_(False)


def new_value(config, source: Source, classifier: PreTrainedModel | None) -> PreTrainedModel | PeftModel:
    """A value model where there is no reward model to begin from: the SFT model, with a head that says 0 everywhere."""
    if classifier is not None:
        value = under_adapter(classifier, config, source, TaskType.SEQ_CLS)
    else:
        value = load_trainable(config, TaskType.SEQ_CLS)
    head = value.get_base_model().score if isinstance(value, PeftModel) else value.score
    for parameter in head.parameters():
        parameter.data.zero_()
    return value


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
    base = copy_sharing_frozen(reward)
    hold_head_in_float32(base)
    return get_peft_model(base, lora)
