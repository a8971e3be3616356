"""What a reply is worth: by the reward model, by functions, or by both; then shaped for the update."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import PartialState

from hfkit.errors import HfkitError, reason
from hfkit.models import load_tokenizer
from hfkit.record import read_record
from hfkit.rlhf.controllers import RewardNormalizer
from hfkit.scoring import RewardModel

RewardFunction = Callable[..., list[float]]


def import_function(path: str) -> RewardFunction:
    """The function `module:name`.

    Raises:
        HfkitError: there is none.
    """
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a user's module raises
        raise HfkitError(f"reward function {path}: {reason(error)}; write it as package.module:function") from error
    if not callable(function):
        raise HfkitError(f"reward function {path} is a {type(function).__name__}, and cannot be called")
    return function


@dataclass
class Scorer:
    """The weighted sum of a reward model's score and of functions `f(prompts, replies, **columns) -> list[float]`.

    Args:
        tokenizer: the policy's, to give functions (and a reward model with a tokenizer of its own) the text.
        model: None where functions alone score.
        same_ids: whether the reward model reads the policy's token ids as they are.
        weights: one for the model, if there is one, then one for each function.
    """

    tokenizer: object
    model: RewardModel | None = None
    same_ids: bool = True
    functions: dict[str, RewardFunction] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    batch_size: int = 16

    def __call__(self, prompts: list[list[int]], replies: list[list[int]], rows: list[dict]) -> dict[str, torch.Tensor]:
        """Scores of replies, float32 (N,) on the CPU: `total`, and what each part gave before its weight.

        Args:
            rows: the data set's columns of each prompt, `prompt` (text or messages) among them.

        Raises:
            HfkitError: a function gives something else than a finite number for each reply.
        """
        parts = {}
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        if self.model is not None and self.same_ids:
            joined = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
            parts["model"] = self.model.score_ids(joined, self.batch_size)
        elif self.model is not None:
            parts["model"] = self.model([row["prompt"] for row in rows], texts, self.batch_size)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        asked = columns.pop("prompt")
        for name, function in self.functions.items():
            parts[name] = checked(name, function(asked, texts, **columns), len(texts))
        weights = self.weights or [1.0] * len(parts)
        total = sum(weight * part for weight, part in zip(weights, parts.values(), strict=True))
        return {"total": total, **parts}


def checked(name: str, scores: object, count: int) -> torch.Tensor:
    """A function's scores as a tensor.

    Raises:
        HfkitError: they are not one finite number a reply.
    """
    try:
        tensor = torch.tensor([float(score) for score in scores])
    except (TypeError, ValueError) as error:
        raise HfkitError(f"reward function {name} gave {scores!r:.80}, not a number for each reply") from error
    if len(tensor) != count or not tensor.isfinite().all():
        raise HfkitError(f"reward function {name} gave {len(tensor)} numbers for {count} replies, or some not finite")
    return tensor


def shaped(
    scores: torch.Tensor,
    ended: torch.Tensor,
    normalizer: RewardNormalizer | None,
    clip: float | None,
    missing_eos_penalty: float | None,
) -> torch.Tensor:
    """Scores (N,) as the update takes them: normalized, clipped to +-`clip`, less a price for replies that did not end.

    Args:
        ended: whether a stop token closed the reply, bool (N,).
    """
    if normalizer is not None:
        scores = normalizer(scores)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return scores if missing_eos_penalty is None else scores - missing_eos_penalty * (~ended).float()


def load_scorer(config, tokenizer, reward_model) -> Scorer:
    """What a PPO config scores with.

    Args:
        reward_model: the reward role, or None where functions alone score.
    """
    model, same_ids = None, True
    if reward_model is not None:
        own = load_tokenizer(config.reward_model_path, config.reward_model_revision, config.pad_token)
        same_ids = own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template
        model = RewardModel(reward_model, tokenizer if same_ids else own)
    functions = {path: import_function(path) for path in config.reward_functions}
    return Scorer(tokenizer, model, same_ids, functions, config.reward_weights, config.per_device_eval_batch_size)


def start_of_normalizer(config) -> RewardNormalizer | None:
    """Mean and standard deviation that the reward stage measured on held-out replies, weighed as a batch of PPO."""
    metrics = (read_record(config.reward_model_path) or {}).get("metrics", {}) if config.reward_model_path else {}
    if not config.normalize_rewards or "eval_reward_mean" not in metrics or config.reward_functions:
        return None
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * PartialState().num_processes
    return RewardNormalizer(metrics["eval_reward_mean"], metrics["eval_reward_std"], batch)
