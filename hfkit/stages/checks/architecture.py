"""Validates that a stage can use its model's architecture: classifiers, context lengths and quantized weights.

In a pipeline the model may not exist yet; its config is that of the model that the first stage starts from or makes.
"""

import math
import os

from transformers import PreTrainedConfig

from hfkit.config.fields import OpenLength
from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.models.adapter_support import has_variant
from hfkit.models.classifiers import has_classifier
from hfkit.models.engine_support import engine_fault
from hfkit.models.loading import cached_config
from hfkit.models.model_config import context_tokens, new_config
from hfkit.records.source import Source
from hfkit.rlhf.roles import shares_policy_vocabulary
from hfkit.training.memory.shapes import quantized_bits

MODEL_KEYS = ("model_name_or_path", "model_revision", "model_config", "tokenizer_name_or_path")
"""The keys that choose model and tokenizer; a problem of these concerns all of them."""
ROW_LENGTHS, PROMPT_LENGTH = ("block_size", "max_length"), "max_prompt_length"
"""The keys of lengths whose defaults follow the model's context."""
MERGE_KEYS = ("merge_in_rollouts", "use_dora", "modules_to_save")


def find_model_config(config) -> PreTrainedConfig | None:
    """Return the config of the model that a stage starts from or makes; None if it cannot be read."""
    try:
        if settings := getattr(config, "model_config", None):
            return new_config(settings)
        return cached_config(config.model_name_or_path, config.model_revision) if config.model_name_or_path else None
    except Exception:  # the checks of the path and of `model_config` report it
        return None


def find_reward_config(config) -> PreTrainedConfig | None:
    """Return the config of the reward model that a stage reads; None if it has none or it cannot be read."""
    path = getattr(config, "reward_model_path", None)
    try:
        return cached_config(path, config.reward_model_revision) if path else None
    except Exception:  # the checks of the path report it
        return None


def quantization_key(config) -> str | None:
    """Return the key that quantizes the base; None if its weights are not quantized."""
    return next((key for key in ("load_in_4bit", "load_in_8bit") if getattr(config, key)), None)


def architecture_problems(config, model_config: PreTrainedConfig | None) -> list[Problem]:
    """Return problems of a stage with a model of this config: no score head, or weights that cannot be quantized."""
    if model_config is None:
        return []
    path, name = config.model_name_or_path, model_config.model_type
    problems = []
    role, is_scorer = scoring_role(config)
    if role and not has_classifier(model_config, is_scorer):
        remedy = f"{role}: Transformers has none for {name}. Start from another architecture"
        if hasattr(config, "reward_model_path"):
            remedy += ", or set reward_model_path to a reward model of another one with the same vocabulary"
        problems.append(Problem("model_name_or_path", path, remedy, keys=(*MODEL_KEYS, "reward_model_path")))
    quantized = getattr(model_config, "quantization_config", None)
    bits = quantization_key(config)
    if quantized and bits:
        remedy = "the model's weights are quantized already: start from its unquantized original, or remove this"
        problems.append(Problem(bits, True, remedy, keys=MODEL_KEYS))
    return problems + rollout_problems(config, model_config)


def rollout_problems(config, model_config: PreTrainedConfig) -> list[Problem]:
    """Return the problem of a rollout engine that cannot sample from the model."""
    engine = getattr(config, "rollout_engine", "generate")
    path = config.model_name_or_path
    start = Source.of(path, config.model_revision).adapter if path and os.path.isdir(path) else None
    merges = getattr(config, "merge_in_rollouts", False) and not has_variant(start or vars(config))
    try:
        fault = engine_fault(engine, model_config, quantized_bits(config), merges, config.attn_implementation)
    except ValueError:  # not a causal language model, which the checks of the model report
        return []
    return [Problem("rollout_engine", engine, fault, keys=(*MODEL_KEYS, *MERGE_KEYS))] if fault else []


def scoring_role(config) -> tuple[str | None, bool]:
    """Return why a stage needs a classifier of its model's architecture, and whether the classifier is trained to
    score.

    None for a stage that needs none. A value model needs only hidden states and a head.
    """
    spec = spec_of_config(config)
    if spec.makes == "reward model":
        return "a reward model is a sequence classifier", True
    if spec.loop != "ppo":
        return None, False
    try:
        starts_from_reward = config.reward_model_path is not None and shares_policy_vocabulary(config)
    except Exception:  # a model is missing or unreadable, which other checks report
        return None, False
    return None if starts_from_reward else "PPO's value model is a sequence classifier", False


def lower_default_lengths(config, limit: int) -> None:
    """Lower the lengths that a config does not set to the model's context of `limit` tokens."""
    for name, value in [*vars(config).items()]:
        room = limit - config.response_length if name == PROMPT_LENGTH else limit
        if isinstance(value, OpenLength) and room > 0:
            setattr(config, name, OpenLength(min(value, room)))


def copy_lengths(checked, config) -> None:
    """Copy the lengths of a checked copy of a config, which may have been lowered, to the config."""
    for name in (*ROW_LENGTHS, PROMPT_LENGTH):
        if hasattr(config, name):
            setattr(config, name, getattr(checked, name))


def length_problems_within(config, limit: int | None) -> list[Problem]:
    """Return problems of rows, or of PPO's prompts with their responses, that are longer than a context of `limit`.

    Lengths that are not set follow the context: they are lowered to it first.
    """
    if limit is None:
        return []
    lower_default_lengths(config, limit)
    problems = [
        Problem(
            name, getattr(config, name), f"the model's context is {limit} tokens: set at most that", keys=MODEL_KEYS
        )
        for name in ROW_LENGTHS
        if getattr(config, name, 0) > limit
    ]
    prompt, response = getattr(config, "max_prompt_length", 0), getattr(config, "response_length", 0)
    if prompt + response > limit:
        whole = f"with max_prompt_length={prompt} it exceeds" if prompt else "it exceeds"
        remedy = f"{whole} the model's context of {limit} tokens: lower {'one of them' if prompt else 'it'}"
        problems.append(Problem("response_length", response, remedy, keys=("max_prompt_length", *MODEL_KEYS)))
    return problems


def reward_length_problems(config, policy: PreTrainedConfig | None, reward: PreTrainedConfig | None) -> list[Problem]:
    """Return the problem of PPO's prompts with their responses if they exceed the context of the reward model.

    Lengths that exceed the policy's context too are reported for the policy. A reward model with another vocabulary
    reads other tokens, whose number is unknown.
    """
    if policy is None or reward is None or policy.get_text_config().vocab_size != reward.get_text_config().vocab_size:
        return []
    limits = [context_tokens(one) or math.inf for one in (policy, reward)]
    limit = limits[1]
    if min(config.max_prompt_length + config.response_length, limits[0]) <= limit:
        return []
    remedy = f"its context is {limit} tokens, fewer than max_prompt_length + response_length: lower one of them"
    keys = ("max_prompt_length", "response_length", "reward_model_revision", *MODEL_KEYS)
    return [Problem("reward_model_path", config.reward_model_path, remedy, keys=keys)]
