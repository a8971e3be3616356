"""The policy on held-out prompts: evaluated as it learns, and compared with the SFT model that it started from."""

from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hfkit.models.generation import generate_replies, likelihoods, mean_entropy, reply_kl, stop_ids
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.forward import Model, autocast
from hfkit.rlhf.rewards import Scorer
from hfkit.rlhf.roles import Roles


@dataclass
class PolicyResults:
    """A model's replies to held-out prompts, the reward of each, float32 (N,), and mean metrics.

    `metrics`: `reward`, `entropy` (nats per token), `length` (tokens), and `kl` to the reference (nats per reply; the
    k1 estimator, whatever `kl_estimator` says).
    """

    replies: list[list[int]]
    rewards: torch.Tensor
    metrics: dict[str, float]


@torch.no_grad()
def evaluate_policy(
    model: Model,
    reference: Model,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    rows: list[dict],
    args: PPOArguments,
    stop_token_ids: list[int],
) -> PolicyResults:
    """Sample and score replies to the prompts of the rows: as in training, but always with the same seed."""
    prompts, size = [row["input_ids"] for row in rows], args.per_device_eval_batch_size
    model.eval()
    with autocast(args.bf16, model.device):
        replies = generate_replies(
            model, tokenizer, prompts, args.response_length, args.temperature, args.seed, size, stop_token_ids
        )
        own = likelihoods(model, tokenizer, prompts, replies, args.temperature, size)
        under_reference = likelihoods(reference, tokenizer, prompts, replies, args.temperature, size)
        rewards = scorer(prompts, replies, rows)["total"]
    metrics = {
        "reward": float(rewards.mean()),
        "kl": reply_kl(own, under_reference),
        "entropy": mean_entropy(own),
        "length": sum(map(len, replies)) / len(replies),
    }
    return PolicyResults(replies, rewards, metrics)


def compare_policies(
    roles: Roles, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, args: PPOArguments
) -> tuple[dict[str, float], list[dict]]:
    """Compare replies of the SFT model and of the policy to the same prompts.

    Returns:
        metrics: KL of the policy to the SFT model (nats per reply), and of both models the mean reward, entropy (nats
        per token) and reply length (tokens);
        samples: prompt, reply before and after, and their rewards.
    """
    rows = list(dataset)
    stop_token_ids = stop_ids(roles.reference.generation_config, tokenizer)
    before, after = (
        evaluate_policy(model, roles.reference, tokenizer, scorer, rows, args, stop_token_ids)
        for model in (roles.reference, roles.policy)
    )
    metrics = {"eval_kl": after.metrics["kl"]}
    for name, results in (("sft", before), ("ppo", after)):
        metrics |= {f"eval_{key}_{name}": results.metrics[key] for key in ("reward", "entropy", "length")}
    samples = [
        {
            "prompt": tokenizer.decode(row["input_ids"]),
            "before": tokenizer.decode(before.replies[index], skip_special_tokens=True),
            "after": tokenizer.decode(after.replies[index], skip_special_tokens=True),
            "reward_before": round(float(before.rewards[index]), 4),
            "reward_after": round(float(after.rewards[index]), 4),
        }
        for index, row in enumerate(rows)
    ]
    return metrics, samples
