"""Evaluates a policy on held-out prompts, during training and against the SFT model that it started from."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hfkit.core.files import hash_of, write_json_lines
from hfkit.core.interrupts import droppable, interruption
from hfkit.core.masking import without_secrets
from hfkit.data.messages import readable_turns
from hfkit.metrics.formulas import kl_per_reply, token_entropy
from hfkit.models.generation import generate_replies, likelihoods, stop_ids
from hfkit.models.saving import save_model
from hfkit.rlhf.arguments import SamplingArguments
from hfkit.rlhf.forward import Model, autocast
from hfkit.rlhf.rewards import Scorer
from hfkit.rlhf.rollout import engine_of
from hfkit.rlhf.sharding import whole_weights
from hfkit.training.interruption import agree_on_signal


@dataclass
class PolicyResults:
    """The responses of a model to held-out prompts, and what was measured on them.

    Attributes:
        replies: token ids of the response to each prompt.
        rewards: the score of each response, float32 (N,); 0 without a scorer.
        metrics: means over the responses: `reward` if there is a scorer, `kl` to the reference (nats per response; the
            k1 estimator, whatever `kl_estimator` says), `entropy` (nats per token), `length` (tokens).
    """

    replies: list[list[int]]
    rewards: torch.Tensor
    metrics: dict[str, float]


@torch.no_grad()
def evaluate_policy(
    model: Model,
    reference: Model,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer | None,
    rows: list[dict],
    args: SamplingArguments,
    stop_token_ids: list[int],
) -> PolicyResults:
    """Sample a response to the prompt of each row as in training, and measure the responses.

    The processes share the rows. The metrics of equal models are equal, on any number of processes.

    Args:
        scorer: None measures no rewards.
        rows: the columns of `encode_prompts`; without a scorer, `input_ids` alone.

    Raises:
        EngineError: in all processes, if the engine of one of them failed.
        KeyboardInterrupt, Interrupted: in all processes, if one of them got a signal.
    """
    size, temperature, prompts = args.per_device_eval_batch_size, args.temperature, [row["input_ids"] for row in rows]
    order = sorted(range(len(rows)), key=lambda index: -len(prompts[index]))  # little padding
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    own = batches[args.process_index :: args.world_size]
    indices = [index for batch in own for index in batch]
    given = [prompts[index] for index in indices]
    model.eval()
    with autocast(args.bf16, model.device):  # a process without rows enters too, to gather weights with the others
        with whole_weights(model):
            own_prompts = [[prompts[index] for index in batch] for batch in own]
            replies = sample_with_fixed_seeds(args, model, tokenizer, own_prompts, stop_token_ids)
            likely = likelihoods(model, tokenizer, given, replies, temperature, size)
        with whole_weights(reference):
            reference_likely = likelihoods(reference, tokenizer, given, replies, temperature, size)
        with whole_weights(scorer.reward_model if scorer else None):
            given_rows = [rows[index] for index in indices]
            rewards = scorer(given, replies, given_rows)["total"].tolist() if scorer and own else [0.0] * len(given)
    measured = [
        (reward, float(one.logprobs.sum()), float(other.logprobs.sum()), float(one.entropy.sum()))
        for reward, one, other in zip(rewards, likely, reference_likely, strict=True)
    ]
    found = sorted(gather_object([*zip(indices, replies, measured, strict=True)]))
    replies = [reply for _, reply, _ in found]
    scores, logprobs, under_reference, entropies = zip(*(figures for *_, figures in found), strict=True)
    metrics = {
        **({"reward": sum(scores) / len(rows)} if scorer else {}),
        "kl": kl_per_reply(logprobs, under_reference),
        "entropy": token_entropy(entropies, [*map(len, replies)]),
        "length": sum(map(len, replies)) / len(rows),
    }
    return PolicyResults(replies, torch.tensor(scores), metrics)


def sample_with_fixed_seeds(
    args: SamplingArguments,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    batches: list[list[list[int]]],
    stop_token_ids: list[int],
) -> list[list[int]]:
    """Return the token ids of a response to each prompt of the batches, in their order.

    The seed of a batch is a hash of `args.seed` and of its prompts.

    Raises:
        EngineError, KeyboardInterrupt, Interrupted: as `evaluate_policy`.
    """
    replies: list[list[int]] = []
    with engine_of(args, model, tokenizer) as engine, droppable():  # no process waits for another one here
        for prompts in batches:
            seed = int(hash_of([args.seed, prompts])[:8], 16)
            limits = (args.response_length, args.temperature, seed, args.per_device_eval_batch_size, stop_token_ids)
            replies += generate_replies(model, tokenizer, prompts, *limits, engine=engine)
    if agree_on_signal():
        raise interruption()
    return replies


def compare_policies(
    policy: Model,
    reference: Model,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer | None,
    dataset: Dataset,
    args: SamplingArguments,
    stage: str,
) -> tuple[dict[str, float], list[dict]]:
    """Compare the responses of the SFT model, `reference`, and of the policy to the same prompts.

    Args:
        scorer: None measures no rewards.
        dataset: as the rows of `evaluate_policy`; with a column `prompt` (text or messages), the samples have messages.
        stage: the suffix of the policy's metrics, as in `eval_reward_grpo`; that of the SFT model is `sft`.

    Returns:
        metrics: `eval_kl` of the policy to the SFT model (nats per response), and of both models the mean reward,
            entropy (nats per token) and length of responses (tokens).
        samples: the prompt as the model reads it, its `messages` if known, the responses before and after, and their
            rewards.
    """
    rows, stop_token_ids = list(dataset), stop_ids(reference.generation_config, tokenizer)
    before, after = (
        evaluate_policy(model, reference, tokenizer, scorer, rows, args, stop_token_ids)
        for model in (reference, policy)
    )
    metrics = {"eval_kl": after.metrics["kl"]}
    for name, results in (("sft", before), (stage, after)):
        metrics |= {f"eval_{key}_{name}": value for key, value in results.metrics.items() if key != "kl"}

    def rewards_of(index: int) -> dict[str, float]:
        found = {"reward_before": before, "reward_after": after}
        return {name: round(float(results.rewards[index]), 4) for name, results in found.items()}

    samples = [
        {
            "prompt": tokenizer.decode(row["input_ids"]),
            **({"messages": readable_turns(row["prompt"])} if row.get("prompt") else {}),
            "before": tokenizer.decode(before.replies[index], skip_special_tokens=True),
            "after": tokenizer.decode(after.replies[index], skip_special_tokens=True),
            **(rewards_of(index) if scorer else {}),
        }
        for index, row in enumerate(rows)
    ]
    return metrics, samples


def sample_lines(sample: dict) -> str:
    """Return a sample of `compare_policies` for the terminal: the last question of its prompt, and both responses."""
    turns = sample.get("messages") or []
    asked = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), sample["prompt"])
    return f"  {asked!r}\n    before: {sample['before']!r}\n    after:  {sample['after']!r}"


def save_with_samples(policy, tokenizer, samples: list[dict], folder: Path, **options) -> None:
    """Save the policy as `save_model` does, and the samples as `samples.jsonl`."""
    save_model(policy, tokenizer, folder, **options)
    write_json_lines(folder / "samples.jsonl", map(without_secrets, samples))
