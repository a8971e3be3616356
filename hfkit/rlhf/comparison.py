"""The policy on held-out prompts: as it learns, and against the SFT model that it was."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from hfkit.models.generation import generate_replies, likelihoods, mean_entropy, reply_kl, stop_ids
from hfkit.rlhf.config import PPOConfig
from hfkit.rlhf.forward import autocast
from hfkit.rlhf.roles import Roles
from hfkit.rlhf.scores import Scorer


@dataclass
class PolicyResults:
    """How a model does on held-out prompts: its replies, what each is worth, and mean figures of them.

    `figures`: `reward`, `entropy` (nats per token), `length` (tokens), and `kl` to the reference (nats per reply).
    """

    replies: list[list[int]]
    rewards: torch.Tensor
    figures: dict[str, float]


@torch.no_grad()
def evaluate_policy(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    scorer: Scorer,
    tokenizer,
    rows: list[dict],
    args: PPOConfig,
    stops: list[int],
) -> PolicyResults:
    """Replies to the rows' prompts, sampled as in training but always with the same seed, and looked at as there."""
    prompts, size = [row["input_ids"] for row in rows], args.per_device_eval_batch_size
    model.eval()
    with autocast(args, model.device):
        replies = generate_replies(
            model, tokenizer, prompts, args.response_length, args.temperature, args.seed, size, stops
        )
        said = likelihoods(model, tokenizer, prompts, replies, args.temperature, size)
        under_reference = likelihoods(reference, tokenizer, prompts, replies, args.temperature, size)
        rewards = scorer(prompts, replies, rows)["total"]
    figures = {
        "reward": float(rewards.mean()),
        "kl": reply_kl(said, under_reference),
        "entropy": mean_entropy(said),
        "length": sum(map(len, replies)) / len(replies),
    }
    return PolicyResults(replies, rewards, figures)


def compare_policies(
    roles: Roles, scorer: Scorer, tokenizer, rows, args: PPOConfig
) -> tuple[dict[str, float], list[dict]]:
    """Replies of the SFT model and of the policy to the same prompts.

    Returns:
        figures: mean reward of either, KL of the policy to the SFT model (nats per reply), entropy (nats per token)
        and reply length (tokens) of either;
        samples: prompt, reply before and after, and their rewards.
    """
    rows = [rows[place] for place in range(len(rows))]
    stops = stop_ids(roles.reference.generation_config, tokenizer)
    before, after = (
        evaluate_policy(model, roles.reference, scorer, tokenizer, rows, args, stops)
        for model in (roles.reference, roles.policy)
    )
    figures = {"eval_kl": after.figures["kl"]}
    for name, found in (("sft", before), ("ppo", after)):
        figures |= {f"eval_{key}_{name}": found.figures[key] for key in ("reward", "entropy", "length")}
    samples = [
        {
            "prompt": tokenizer.decode(row["input_ids"]),
            "before": tokenizer.decode(before.replies[place], skip_special_tokens=True),
            "after": tokenizer.decode(after.replies[place], skip_special_tokens=True),
            "reward_before": round(float(before.rewards[place]), 4),
            "reward_after": round(float(after.rewards[place]), 4),
        }
        for place, row in enumerate(rows)
    ]
    return figures, samples
