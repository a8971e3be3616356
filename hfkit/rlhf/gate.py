"""Before PPO: is the reward model fit to be followed? What its record says, and what it gives to worthless replies."""

import torch

from hfkit.core.console import is_main_process, say, warn
from hfkit.metrics.probes import print_probes, probe, signs
from hfkit.models.generation import generate_replies, stop_ids
from hfkit.records.record import record_of
from hfkit.rlhf.config import PPOConfig
from hfkit.rlhf.forward import autocast
from hfkit.rlhf.scores import shaped

PROBED_PROMPTS = 16
"""Prompts whose replies are probed."""


def held_out_figures(path: str, revision: str = "main") -> dict[str, float]:
    """What a reward model's record says of held-out pairs, as `preference.metrics_of_rewards` names it; or {}.

    Those of `hfkit evaluate` where it was evaluated, else those of its training.
    """
    record = record_of(path, revision) or {}
    evaluated = record.get("evaluation", {}).get("metrics", {})
    trained = {key.removeprefix("eval_"): value for key, value in record.get("metrics", {}).items() if "eval_" in key}
    figures = evaluated if "accuracy" in evaluated else trained
    return figures if "accuracy" in figures else {}


def tell_accuracy(config) -> None:
    """Says how well the reward model ranks held-out pairs; warns where that is unknown, or may be chance."""
    if not config.reward_model_path:
        return
    figures = held_out_figures(config.reward_model_path, config.reward_model_revision)
    if not figures:
        path = config.reward_model_path
        say(f"ppo: how well {path} ranks held-out pairs is unknown: `hfkit evaluate {path} --datasets PAIRS` tells")
        return
    low, high = (figures.get(f"accuracy_{end}", figures["accuracy"]) for end in ("low", "high"))
    parts = [f"it ranks {figures['accuracy']:.3f} of the held-out pairs right (95% interval {low:.3f} to {high:.3f})"]
    if "calibration_error" in figures:
        parts.append(f"calibration error {figures['calibration_error']:.3f}")
    if "longer_preferred" in figures:
        parts.append(
            f"sides with the longer reply in {figures['longer_preferred']:.0%} of them, the labels in "
            f"{figures['longer_chosen']:.0%}"
        )
    say(f"ppo: the reward model: {', '.join(parts)}")
    if low <= 0.5:
        warn(
            f"on held-out pairs {config.reward_model_path} may be no better than chance (accuracy "
            f"{figures['accuracy']:.3f}, {low:.3f} to {high:.3f}): PPO would follow noise. Train it on more pairs, or "
            "from the SFT model; min_reward_accuracy stops PPO below a figure of your own"
        )


def probe_rewards(policy, scorer, tokenizer, rows, args: PPOConfig) -> dict[str, dict[str, float]]:
    """Rewards of the policy's own replies to a few prompts, before the first step, and of spoilt ones.

    They are those of PPO, less `missing_eos_penalty` where a reply does not end, before normalization and clip.

    Returns:
        as `probes.probe`; {} with a single prompt, to which no reply could be off-topic.
    """
    rows = [rows[place] for place in range(min(len(rows), PROBED_PROMPTS))]
    if len(rows) < 2:
        return {}
    prompts = [row["input_ids"] for row in rows]
    stops = stop_ids(policy.generation_config, tokenizer)
    size = args.per_device_eval_batch_size
    was_training = policy.training
    with autocast(args, policy.device):
        replies = generate_replies(
            policy.eval(), tokenizer, prompts, args.response_length, args.temperature, args.seed, size, stops
        )
    policy.train(was_training)

    def score(replies: list[list[int]]) -> torch.Tensor:
        ended = torch.tensor([reply[-1] in stops for reply in replies])
        with autocast(args, policy.device):
            total = scorer(prompts, replies, rows)["total"]
        return shaped(total, ended, None, None, args.missing_eos_penalty)

    probes = probe(score, replies, tokenizer.eos_token_id)
    if is_main_process():
        print_probes(probes, f"rewards of replies to {len(rows)} prompts, before PPO")
    for sign in signs(probes):
        warn(sign)
    return probes
