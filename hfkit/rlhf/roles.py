"""The models of online training: policy, reference, reward; of PPO also the value model."""

import copy
from dataclasses import dataclass

from peft import PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from hfkit.config.online import OnlineConfig
from hfkit.config.stages import PPOConfig
from hfkit.core.console import say
from hfkit.core.unwrap import without_adapter
from hfkit.models.adapter_shape import fit_to_model, lora_config
from hfkit.models.adapter_support import require_supported
from hfkit.models.adapters import ADAPTED, load_adapter
from hfkit.models.loading import (
    add_trainable_adapter,
    device_to_shard_from,
    load_base,
    load_classifier,
    load_trainable,
    loading_options,
)
from hfkit.models.multimodal import freeze_parts_without_text
from hfkit.models.saving import repair_generation_config
from hfkit.models.score_head import compute_head_in_float32, store_head_in_float32
from hfkit.models.tokenizers import cached_tokenizer
from hfkit.records.base import same_base
from hfkit.records.source import Source
from hfkit.rlhf.forward import Model
from hfkit.rlhf.rewards import embeds_policy_ids, load_reward_tokenizer
from hfkit.rlhf.shared_base import classifier_over, copy_sharing_frozen


@dataclass
class Roles:
    """The models of PPO.

    Attributes:
        policy: trained.
        reference: the SFT model, frozen.
        reward: frozen; None if only functions score.
        value: trained; it starts from the reward model if that has the policy's vocabulary, else from the SFT model
            with a head of zeros. Its values are computed in float32.
    """

    policy: Model
    reference: Model
    reward: Model | None
    value: Model

    def __post_init__(self) -> None:
        compute_head_in_float32(self.value)


@dataclass
class ScoredPolicy:
    """A policy, its reference and its reward model.

    Attributes:
        policy: trained.
        reference: the SFT model, frozen.
        reward: frozen; None where only functions score.
        bare: a classifier on the policy's base without an adapter, if requested and available.
        why_not: why a classifier does not share the policy's base, or None.
    """

    policy: Model
    reference: Model
    reward: Model | None
    bare: PreTrainedModel | None
    why_not: str | None


def load_scored_policy(config: OnlineConfig, with_bare: bool = False) -> ScoredPolicy:
    """Load policy, reference and reward model of a config.

    With LoRA they are adapters on one frozen base, held once, if the reward model is an adapter on the policy's base;
    otherwise policy and reference share one base. In full fine-tuning each is a separate model. Policy and reference
    start as the same model, so the first KL is zero.
    """
    assert config.model_name_or_path is not None
    source = Source.of(config.model_name_or_path, config.model_revision)
    require_supported(source, to_merge=not config.use_peft, to_train=config.use_peft)
    scorer = scorer_of(config)
    why_not = why_separate_bases(config, source, scorer)
    classifier = None
    policy: Model
    if why_not is None:
        base = load_base(source.base, source.base_revision, **loading_options(config)).requires_grad_(False)
        repair_generation_config(base, source.base)
        classifier = classifier_over(base)
        policy = add_trainable_adapter(base, config, source, TaskType.CAUSAL_LM)
        why_not = None if classifier else f"{type(base).__name__} and its classifier have different backbones"
    else:
        policy = load_trainable(config)
    reference = copy_sharing_frozen(policy) if config.use_peft else copy.deepcopy(policy)
    # copied first, since adding an adapter changes the modules of its model
    bare = copy_sharing_frozen(classifier) if classifier and with_bare else None
    reward = load_reward_role(config, scorer, classifier) if scorer else None
    return ScoredPolicy(policy, reference.requires_grad_(False).eval(), reward, bare, why_not)


def load_roles(config: PPOConfig) -> Roles:
    """Load the roles of a PPO config.

    With LoRA all four are adapters on one frozen base, held once, if the reward model is an adapter on the policy's
    base; otherwise policy and reference share one base, and reward and value another.
    """
    from_reward = config.reward_model_path is not None and shares_policy_vocabulary(config)
    loaded = load_scored_policy(config, with_bare=not from_reward)
    if loaded.why_not:
        say(f"ppo: policy and value model do not share a base: {loaded.why_not}")
    if loaded.reward is not None and (scorer := scorer_of(config)) and from_reward:
        value = value_from_reward(loaded.reward, config, scorer)
    else:
        assert config.model_name_or_path is not None
        source = Source.of(config.model_name_or_path, config.model_revision)
        value = new_value_model(config, source, loaded.bare)
    return Roles(loaded.policy, loaded.reference, loaded.reward, value)


def scorer_of(config: OnlineConfig) -> Source | None:
    """Return the source of the reward model, which the checks of the config have validated; None without one."""
    return Source.of(config.reward_model_path, config.reward_model_revision) if config.reward_model_path else None


def shares_policy_vocabulary(config: PPOConfig) -> bool:
    """Return whether the reward model has the policy's vocabulary, since a value model reads the policy's token ids."""
    assert config.model_name_or_path is not None
    policy = cached_tokenizer(config.model_name_or_path, config.model_revision, config.pad_token)
    reward = load_reward_tokenizer(config, cached_tokenizer)
    return reward.get_vocab() == policy.get_vocab() and embeds_policy_ids(config)


def why_separate_bases(config: OnlineConfig, source: Source, scorer: Source | None) -> str | None:
    """Return why policy and value model cannot share one base, or None if they can."""
    if not config.use_peft:
        return "full fine-tuning trains every weight of both (use_peft: true shares one base)"
    if scorer and (scorer.adapter is None or not same_base(source, scorer)):
        return f"the policy's base is {source.base}, but the reward model's base is {scorer.base}"
    return None


def load_reward_role(config: OnlineConfig, scorer: Source, classifier: PreTrainedModel | None) -> Model:
    """Return the frozen reward model: its adapter on the classifier over the shared base, or loaded separately."""
    if classifier is not None:
        return load_adapter(classifier, scorer).eval().requires_grad_(False)
    options = loading_options(config) | device_to_shard_from(config)
    return load_classifier(scorer.path, scorer.revision, **options).eval().requires_grad_(False)


def new_value_model(config: PPOConfig, source: Source, classifier: PreTrainedModel | None) -> Model:
    """Return a value model that starts from the SFT model, with a head of zeros."""
    kind = TaskType.SEQ_CLS
    value = add_trainable_adapter(classifier, config, source, kind) if classifier else load_trainable(config, kind)
    for parameter in without_adapter(value).get_submodule("score").parameters():
        parameter.data.zero_()
    return value


def value_from_reward(reward: Model, config: PPOConfig, scorer: Source) -> Model:
    """Return a trainable copy of the reward model: its adapter and head, a new adapter and its head, or all of it."""
    if isinstance(reward, PeftModel):
        for name, parameter in reward.named_parameters():
            parameter.requires_grad = any(part in name for part in ADAPTED)
        value = copy_sharing_frozen(reward)
        reward.requires_grad_(False)
        return value
    if not config.use_peft:
        return freeze_parts_without_text(copy.deepcopy(reward).requires_grad_(True))
    base = copy_sharing_frozen(reward)
    store_head_in_float32(base)
    return get_peft_model(base, fit_to_model(lora_config(config, scorer, TaskType.SEQ_CLS), base))
