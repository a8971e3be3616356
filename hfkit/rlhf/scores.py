"""What a reply is worth: by the reward model, by functions, or by both; then shaped for the update."""

from dataclasses import dataclass, field

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import Messages, RenderError, encode_conversation
from hfkit.models.loading import load_tokenizer
from hfkit.models.reward_model import RewardModel
from hfkit.records.record import record_of
from hfkit.rlhf.controllers import RewardNormalizer
from hfkit.rlhf.reward_functions import RewardFunction, called, checked, import_function


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
            parts["model"] = self.rendered(rows, texts)
        asked = [row["prompt"] for row in rows]
        columns = {name: [row[name] for row in rows] for name in rows[0] if name not in ("prompt", "input_ids")}
        for name, function in self.functions.items():
            parts[name] = checked(name, called(name, function, asked, texts, columns), len(texts))
        weights = self.weights or [1.0] * len(parts)
        total = sum(weight * part for weight, part in zip(weights, parts.values(), strict=True))
        return {"total": total, **parts}

    def rendered(self, rows: list[dict], texts: list[str]) -> torch.Tensor:
        """Scores of a reward model that reads the text with its own tokenizer and template."""
        try:
            return self.model([row["prompt"] for row in rows], texts, self.batch_size)
        except RenderError as error:
            raise HfkitError(f"a reply cannot be rendered for the reward model: {error}") from error


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


def reader_of(config, tokenizer) -> PreTrainedTokenizerBase | None:
    """The tokenizer that the reward model reads with: the policy's where its own says the same, else its own.

    Returns:
        None without a reward model.
    """
    if config.reward_model_path is None:
        return None
    own = reward_tokenizer(config)
    same = own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template
    return tokenizer if same else own


def reward_tokenizer(config) -> PreTrainedTokenizerBase:
    """The reward model's own tokenizer; `pad_token` is the policy's, and taken where it has no other.

    Raises:
        HfkitError: it has no token to pad with.
    """
    path, revision = config.reward_model_path, config.reward_model_revision
    try:
        return load_tokenizer(path, revision)
    except HfkitError:
        return load_tokenizer(path, revision, config.pad_token)


def refuse_unreadable(reader: PreTrainedTokenizerBase, prompt: str | Messages) -> None:
    """Looks at one prompt before any model is loaded.

    Raises:
        HfkitError: the reward model's own tokenizer cannot render it.
    """
    try:
        encode_conversation(reader, prompt, "yes")
    except RenderError as error:
        raise HfkitError(
            f"reward_model_path: its tokenizer is not the policy's, and cannot render the prompts: {error}"
        ) from error


def load_scorer(config, tokenizer, reader: PreTrainedTokenizerBase | None, reward_model) -> Scorer:
    """What a PPO config scores with.

    Args:
        reader: as `reader_of` gives it.
        reward_model: the reward role, or None where functions alone score.
    """
    model = None if reward_model is None else RewardModel(reward_model, reader)
    functions = {path: import_function(path) for path in config.reward_functions}
    size = config.per_device_eval_batch_size
    return Scorer(tokenizer, model, reader is tokenizer, functions, config.reward_weights, size)


def start_of_normalizer(config) -> RewardNormalizer | None:
    """Mean and standard deviation that the reward stage measured on held-out replies, weighed as a batch of PPO.

    None where rewards are not normalized, functions have a part in them, or the reward model's record does not tell.
    """
    if not config.normalize_rewards or config.reward_functions:
        return None
    metrics = (record_of(config.reward_model_path, config.reward_model_revision) or {}).get("metrics", {})
    if "eval_reward_mean" not in metrics:
        return None
    weight = config.reward_weights[0] if config.reward_weights else 1.0
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * PartialState().num_processes
    return RewardNormalizer(weight * metrics["eval_reward_mean"], abs(weight) * metrics["eval_reward_std"], batch)
