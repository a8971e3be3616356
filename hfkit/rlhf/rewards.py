"""Scores of responses: by a reward model, by reward functions, or by a weighted sum; then shaped for the update."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from hfkit.config.online import OnlineConfig
from hfkit.config.stages import PPOConfig
from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import encode_sampled, end_as_trained
from hfkit.data.messages import RenderError, tools_of
from hfkit.data.rendering import TEMPLATE_KWARGS, set_template_kwargs, template_kwargs, variables_of
from hfkit.data.system_prompt import set_system_prompt
from hfkit.models.loading import cached_config
from hfkit.models.reward_model import RewardModel
from hfkit.models.tokenizers import PadTokenError, load_tokenizer
from hfkit.records.record import record_of
from hfkit.rlhf.controllers import RewardNormalizer
from hfkit.rlhf.forward import Model
from hfkit.rlhf.reward_functions import RewardFunction, call_reward_function, import_reward_function

NOT_FOR_FUNCTIONS = ("prompt", "input_ids", "tools", TEMPLATE_KWARGS)
"""Columns that reward functions get as keyword arguments only if `reward_columns` names them."""


@dataclass
class Scorer:
    """The weighted sum of a reward model's score and of functions `f(prompts, replies, **columns) -> list[float]`.

    Args:
        tokenizer: the policy's; it decodes responses for functions, and for a reward model with another tokenizer.
        model: None if only functions score.
        same_ids: whether the reward model reads the policy's token ids unchanged.
        weights: one for the model, if there is one, then one for each function; default 1 each.
        columns: of the rows, for functions; as `reward_columns`.
        stop_token_ids: end a sampled response; the reward model reads the end-of-turn token instead of them.
        max_tokens: of a forward pass of the reward model on token ids, if they are more than `batch_size` rows.
    """

    tokenizer: PreTrainedTokenizerBase
    model: RewardModel | None = None
    same_ids: bool = True
    functions: dict[str, RewardFunction] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    batch_size: int = 16
    columns: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int | None = None

    @property
    def reward_model(self) -> torch.nn.Module | None:
        """The reward model itself; None if only functions score."""
        return None if self.model is None else self.model.model

    def __call__(self, prompts: list[list[int]], replies: list[list[int]], rows: list[dict]) -> dict[str, torch.Tensor]:
        """Return the scores of responses, float32 (N,) on the CPU: `total`, and each part before its weight.

        Args:
            rows: the dataset's columns of each prompt, `prompt` (text or messages) among them.

        Raises:
            HfkitError: a function does not return one finite number for each response.
        """
        parts = {}
        prompt_texts = [row["prompt"] for row in rows]
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        if self.model is not None and self.same_ids:
            joined = [
                prompt + end_as_trained(self.tokenizer, reply, self.stop_token_ids, variables_of(row))
                for prompt, reply, row in zip(prompts, replies, rows, strict=True)
            ]
            fitting = (self.max_tokens or 0) // max(map(len, joined))
            parts["model"] = self.model.score_ids(joined, max(fitting, self.batch_size))
        elif self.model is not None:
            parts["model"] = self.model.score_sampled(rows, texts, self.batch_size)
        names = [name for name in rows[0] if name in self.columns or name not in NOT_FOR_FUNCTIONS]
        columns = {name: [row[name] for row in rows] for name in names}
        for name, function in self.functions.items():
            parts[name] = call_reward_function(name, function, prompt_texts, texts, columns)
        if not parts:
            raise HfkitError("nothing scores the responses: pass a reward model or reward functions")
        weights = self.weights or [1.0] * len(parts)
        weighted = [weight * part for weight, part in zip(weights, parts.values(), strict=True)]
        return {"total": sum(weighted[1:], weighted[0]), **parts}


def shape_scores(
    scores: torch.Tensor,
    ended: torch.Tensor,
    normalizer: RewardNormalizer | None,
    clip: float | None,
    missing_eos_penalty: float | None,
) -> torch.Tensor:
    """Return the scores (N,) for the update: normalized, clipped to +-`clip`, less a penalty for unended responses.

    Args:
        ended: whether a stop token ended the response, bool (N,).
    """
    if normalizer is not None:
        scores = normalizer(scores)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return scores if missing_eos_penalty is None else scores - missing_eos_penalty * (~ended).float()


def scoring_tokenizer(config: OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that the reward model reads with, or None without a reward model.

    It is the policy's `tokenizer` itself if the reward model's tokenizer has the same vocabulary and chat template.
    """
    if config.reward_model_path is None:
        return None
    own = load_reward_tokenizer(config)
    set_template_kwargs(own, config.chat_template_kwargs)
    if config.system_prompt is not None and own.chat_template:
        set_system_prompt(own, config.system_prompt)
    same = own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template
    same = same and template_kwargs(own) == template_kwargs(tokenizer) and embeds_policy_ids(config)
    return tokenizer if same else own


def embeds_policy_ids(config: OnlineConfig) -> bool:
    """Return whether the reward model's embedding covers every id that the policy can sample, padding ids included."""
    models = (
        (str(config.reward_model_path), config.reward_model_revision),
        (str(config.model_name_or_path), config.model_revision),
    )
    reward_size, policy_size = (cached_config(*model).get_text_config().vocab_size for model in models)
    return reward_size >= policy_size


def load_reward_tokenizer(config: OnlineConfig, load: Callable = load_tokenizer) -> PreTrainedTokenizerBase:
    """Load the reward model's own tokenizer; it pads with the config's `pad_token` where it has no pad token itself.

    Args:
        load: `load_tokenizer`, or `cached_tokenizer` for callers that do not change it.

    Raises:
        HfkitError: it has no pad token and the config names none, or it cannot be read.
    """
    path, revision = config.reward_model_path, config.reward_model_revision
    assert path is not None
    try:
        return load(path, revision, None)
    except PadTokenError:
        return load(path, revision, config.pad_token)


def validate_rendering(reward_tokenizer: PreTrainedTokenizerBase, row: dict) -> None:
    """Render the prompt of one row before any model is loaded.

    Raises:
        HfkitError: the reward model's own tokenizer cannot render it.
    """
    try:
        encode_sampled(reward_tokenizer, row["prompt"], "yes", tools_of(row.get("tools")), variables_of(row))
    except RenderError as error:
        raise HfkitError(
            f"reward_model_path: its tokenizer differs from the policy's and cannot render the prompts: {error}"
        ) from error


def load_scorer(
    config: OnlineConfig,
    tokenizer: PreTrainedTokenizerBase,
    reward_tokenizer: PreTrainedTokenizerBase | None,
    reward_model: Model | None,
    stop_token_ids: list[int],
) -> Scorer:
    """Return the scorer of a config, with the policy's tokenizer and the one that `scoring_tokenizer` returned.

    Args:
        stop_token_ids: of the policy.
    """
    model = None if reward_model is None or reward_tokenizer is None else RewardModel(reward_model, reward_tokenizer)
    functions = {path: import_reward_function(path) for path in config.reward_functions}
    return Scorer(
        tokenizer,
        model,
        reward_tokenizer is tokenizer,
        functions,
        weights=config.reward_weights,
        batch_size=config.per_device_eval_batch_size,
        columns=config.reward_columns,
        stop_token_ids=stop_token_ids,
        max_tokens=config.max_tokens_per_micro_batch,
    )


def initial_normalizer(config: PPOConfig) -> RewardNormalizer | None:
    """Return a normalizer with the mean and std that the reward stage measured on held-out responses.

    They weigh as much as one batch of PPO. None if rewards are not normalized, if functions contribute to them, or if
    the reward model's record has no such metrics.
    """
    if not config.normalize_rewards or config.reward_functions or config.reward_model_path is None:
        return None
    metrics = (record_of(config.reward_model_path, config.reward_model_revision) or {}).get("metrics", {})
    if "eval_reward_mean" not in metrics:
        return None
    weight = config.reward_weights[0] if config.reward_weights else 1.0
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * PartialState().num_processes
    return RewardNormalizer(weight * metrics["eval_reward_mean"], abs(weight) * metrics["eval_reward_std"], batch)
