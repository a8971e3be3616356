"""Measures the effect of merging: compares an adapter and the merged model on the same held-out rows."""

import math

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.config.fields import DatasetEntry
from hfkit.data.splits import SplitStats
from hfkit.evaluation.held_out import find_held_out
from hfkit.evaluation.text_likelihoods import text_likelihoods
from hfkit.metrics.formulas import perplexity
from hfkit.metrics.preference import metrics_of_margins
from hfkit.models.reward_model import RewardModel

ROWS = 200  # enough to measure a loss to about a percent, in seconds on a small model


def held_out_rows(
    record: dict, tokenizer: PreTrainedTokenizerBase, is_reward: bool, eval_dataset: str | None = None
) -> tuple[Dataset, SplitStats]:
    """Return the first 200 held-out rows, encoded as their stage encodes them, and their statistics.

    They are those of the adapter's record, or of the file or Hub id `eval_dataset`; errors are as in `find_held_out`.
    """
    entries = [DatasetEntry(path=eval_dataset)] if eval_dataset else None
    return find_held_out(record, is_reward, ROWS, entries).encoded(tokenizer)


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> float | torch.Tensor:
    """Return the loss of a policy, in nats per labeled token; for pairs, the rewards (2, N) of a reward model."""
    if "labels" in rows.column_names:
        found = text_likelihoods(model, tokenizer, rows)
        return float(found.nats.sum() / found.tokens.sum())
    reward = RewardModel(model, tokenizer)
    return torch.stack([reward.score_ids(rows[column][:]) for column in ("chosen_ids", "rejected_ids")])


def comparison(
    before: float | torch.Tensor, merged: float | torch.Tensor, adapter: str
) -> tuple[dict[str, float], str]:
    """Return metrics of the adapter and of the merged model for the record, and a sentence for the card.

    `adapter` is the adapter's name in the sentence; the other two are the results of `measure`.
    """
    if isinstance(before, float):
        metrics = {
            "eval_loss_adapter": before,
            "eval_perplexity_adapter": perplexity([before], [1]),
            "eval_loss_merged": merged,
            "eval_perplexity_merged": perplexity([merged], [1]),
            "eval_perplexity_ratio": perplexity([merged - before], [1]),
        }
        return metrics, (
            "{adapter} has a loss of {eval_loss_adapter:.4f} nats per token (perplexity "
            "{eval_perplexity_adapter:.4f}), the merged model one of {eval_loss_merged:.4f} "
            "({eval_perplexity_merged:.4f}): {eval_perplexity_ratio:.4f} times the perplexity"
        ).format(adapter=adapter, **metrics)
    accuracies = [metrics_of_margins(rewards[0] - rewards[1])["accuracy"] for rewards in (before, merged)]
    difference, spread = float((merged - before).abs().mean()), float(before.std())
    metrics = {
        "eval_accuracy_adapter": accuracies[0],
        "eval_accuracy_merged": accuracies[1],
        "eval_reward_difference": difference,
        "eval_reward_difference_ratio": difference / spread if spread else math.inf,
    }
    return metrics, (
        "{adapter} has an accuracy of {eval_accuracy_adapter:.3f}, the merged model one of {eval_accuracy_merged:.3f}; "
        "their rewards differ by {eval_reward_difference:.4f} on average, which is {eval_reward_difference_ratio:.4f} "
        "of a standard deviation"
    ).format(adapter=adapter, **metrics)
