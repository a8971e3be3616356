"""Measures how diverse a model's responses are, which RLHF is known to reduce (arXiv 2310.06452)."""

import numpy as np

from hfkit.config.evaluation import ArenaConfig
from hfkit.evaluation.replies import Reply, Sampling, Subject, load_or_sample
from hfkit.evaluation.results_file import ResultsFile
from hfkit.metrics.formulas import distinct, self_bleu, token_entropy


def reply_diversity(replies: list[Reply]) -> dict[str, float]:
    """Return entropy (nats per token), distinct-1 and distinct-2 over all responses together."""
    texts = [reply.text for reply in replies]
    entropy = token_entropy([reply.entropy for reply in replies], [len(reply.ids) for reply in replies])
    return {"entropy": entropy, "distinct_1": distinct(texts, 1), "distinct_2": distinct(texts, 2)}


def diversity_by_temperature(
    config: ArenaConfig, subject: Subject, prompts: list[list[int]], results: ResultsFile
) -> list[dict]:
    """Return entropy, diversity and length of several responses to each of some prompts, a dict for each temperature.

    distinct-n and self-BLEU are of the responses to one prompt, averaged over prompts ("per-input diversity" in arXiv
    2310.06452); entropy is in nats per token, length in tokens.
    """
    rows, prompts, size = [], prompts[: config.diversity_prompts], config.per_device_eval_batch_size
    for temperature in config.diversity_temperatures:
        sampling = Sampling(config.response_length, temperature, config.seed)
        replies = load_or_sample(subject, prompts, sampling, results, size, config.diversity_samples)
        by_prompt = [replies[index :: len(prompts)] for index in range(len(prompts))]
        metrics = [reply_diversity(group) for group in by_prompt]
        rows.append(
            {
                "model": subject.name,
                "temperature": temperature,
                "entropy": reply_diversity(replies)["entropy"],
                "distinct_1": float(np.mean([one["distinct_1"] for one in metrics])),
                "distinct_2": float(np.mean([one["distinct_2"] for one in metrics])),
                "self_bleu": float(np.mean([self_bleu([reply.text for reply in group]) for group in by_prompt])),
                "length": float(np.mean([len(reply.ids) for reply in replies])),
            }
        )
    return rows
