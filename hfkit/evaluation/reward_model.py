"""Computes the metrics of reward models: how they rank held-out pairs, and how they score worthless responses."""

import numpy as np
from accelerate.utils import release_memory

from hfkit.config.evaluation import EvaluateConfig
from hfkit.core.console import say, warn
from hfkit.data.chat_template import encode_prompt, encode_replies
from hfkit.data.comparisons import read_comparison
from hfkit.data.messages import RenderError
from hfkit.data.splits import SplitStats
from hfkit.data.turn_end import turn_end
from hfkit.evaluation.held_out import HeldOut, load_held_out
from hfkit.evaluation.replies import Subject
from hfkit.metrics.preference import metrics_of_rewards
from hfkit.metrics.reward_probes import probe_warnings, run_probes
from hfkit.models.model_config import context_tokens
from hfkit.models.reward_model import RewardModel, load_reward

PROBED = 32
"""Rows whose best response is probed, at most."""


def evaluate_reward_models(config: EvaluateConfig) -> dict:
    """Return `by_model`, `probes` (of each model, see `reward_probes.run_probes`) and `data` of evaluation.json.

    Raises:
        HfkitError: there are no held-out pairs, or the pairs cannot be read.
    """
    models = config.models().values()
    held_out = load_held_out(config, are_pairs=True)
    readers = [Subject(*model) for model in models]
    held_out = held_out.shared_by([(reader.tokenizer, reader.context) for reader in readers])
    by_model, probes, test_stats = {}, {}, []
    for name, path, revision in models:
        say(f"loading {name}: {path}")
        reward = load_reward(path, revision, dtype=config.dtype)
        by_model[name], stats = evaluate_pairs(reward, held_out, config.per_device_eval_batch_size)
        test_stats.append(stats)
        found = probe_reward_model(reward, held_out)
        probes |= {name: found} if found else {}
        for sign in probe_warnings(found):
            warn(f"{name}: {sign}")
        del reward
        release_memory()  # a GPU may have no room for two
    return {"by_model": by_model, "probes": probes, "data": {"test": test_stats[0].as_dict()}}


def evaluate_pairs(reward: RewardModel, held_out: HeldOut, batch_size: int) -> tuple[dict[str, float], SplitStats]:
    """Return the metrics of `preference.metrics_of_rewards`, and statistics of the pairs."""
    context = context_tokens(reward.model.config)
    pairs, stats = held_out.encoded(reward.tokenizer, context)
    columns = [pairs[column][:] for column in ("chosen_ids", "rejected_ids")]
    rewards = [reward.score_ids(column, batch_size).double().numpy() for column in columns]
    return metrics_of_rewards(*rewards, pairs), stats


def probe_reward_model(reward: RewardModel, held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Return rewards of worthless responses (see `run_probes`), made of the best ones; {} if fewer than 2 rows fit."""
    prompts, replies = [], []
    for row in held_out.rows.select(range(min(PROBED, len(held_out.rows)))):
        try:
            messages, given, values, _ = read_comparison(row)
            prompt = encode_prompt(reward.tokenizer, messages)
            whole = encode_replies(reward.tokenizer, messages, [given[int(np.argmax(values))]])[0]
        except RenderError:
            continue
        if prompt and whole[: len(prompt)] == prompt and len(prompt) < len(whole) <= held_out.max_length:
            prompts.append(prompt)
            replies.append(whole[len(prompt) :])
    if len(replies) < 2:
        return {}

    def score(given: list[list[int]]) -> np.ndarray:
        return reward.score_ids([prompt + reply for prompt, reply in zip(prompts, given, strict=True)]).numpy()

    return run_probes(score, replies, turn_end(reward.tokenizer).ids[-1])
