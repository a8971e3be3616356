"""How varied a model's replies are: RLHF is known to narrow them (arXiv 2310.06452)."""

import numpy as np

from hfkit.config.evaluation import ArenaConfig
from hfkit.evaluation.lines import Lines
from hfkit.evaluation.replies import Reply, Sampling, Subject, sample_once
from hfkit.metrics.formulas import distinct, self_bleu, token_entropy


def variety(replies: list[Reply]) -> dict[str, float]:
    """Entropy (nats per token), distinct-1 and distinct-2 of replies together."""
    texts = [reply.text for reply in replies]
    entropy = token_entropy([reply.entropy for reply in replies], [len(reply.ids) for reply in replies])
    return {"entropy": entropy, "distinct_1": distinct(texts, 1), "distinct_2": distinct(texts, 2)}


def diversity_of(config: ArenaConfig, subject: Subject, prompts: list[list[int]], kept: Lines) -> list[dict]:
    """Entropy, diversity and length of several replies to each of some prompts, over temperatures.

    distinct-n and self-BLEU are of the replies to one prompt, then averaged over prompts (arXiv 2310.06452 calls that
    per-input diversity); entropy is in nats per token, length in tokens.
    """
    rows, asked, size = [], prompts[: config.diversity_prompts], config.per_device_eval_batch_size
    for temperature in config.diversity_temperatures:
        sampling = Sampling(config.response_length, temperature, config.seed)
        replies = sample_once(subject, asked, sampling, kept, size, config.diversity_samples)
        by_prompt = [replies[place :: len(asked)] for place in range(len(asked))]
        each = [variety(said) for said in by_prompt]
        rows.append(
            {
                "model": subject.name,
                "temperature": temperature,
                "entropy": variety(replies)["entropy"],
                "distinct_1": float(np.mean([figures["distinct_1"] for figures in each])),
                "distinct_2": float(np.mean([figures["distinct_2"] for figures in each])),
                "self_bleu": float(np.mean([self_bleu([reply.text for reply in said]) for said in by_prompt])),
                "length": float(np.mean([len(reply.ids) for reply in replies])),
            }
        )
    return rows
