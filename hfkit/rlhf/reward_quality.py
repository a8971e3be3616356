"""Checks whether a reward model is good enough to learn from: held-out accuracy and rewards of worthless responses."""

import math
from operator import itemgetter

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hfkit.config.online import OnlineConfig
from hfkit.config.registry import spec_of_config
from hfkit.core.console import is_main_process, say, warn
from hfkit.data.chat_template import end_as_trained
from hfkit.data.rendering import variables_of
from hfkit.data.turn_end import turn_end
from hfkit.metrics.reward_probes import print_probes, probe_warnings, run_probes
from hfkit.models.generation import generate_replies, stop_ids
from hfkit.records.record import record_of
from hfkit.rlhf.arguments import OnlinePolicyArguments
from hfkit.rlhf.forward import Model, autocast
from hfkit.rlhf.rewards import Scorer, shape_scores
from hfkit.rlhf.rollout import engine_of
from hfkit.rlhf.sharding import whole_weights

PROBED_PROMPTS = 16


def recorded_pair_metrics(path: str, revision: str = "main") -> dict[str, float]:
    """Return a reward model's metrics on held-out pairs from its record, named as in `metrics_of_rewards`; or {}.

    Of its training and of `hfkit evaluate`, the one with more held-out rows counts, and the evaluation if both have
    equally many.
    """
    record = record_of(path, revision) or {}
    evaluation = record.get("evaluation", {})
    trained = {key.removeprefix("eval_"): value for key, value in record.get("metrics", {}).items() if "eval_" in key}
    found = [(evaluation.get("metrics", {}), evaluation.get("data", {})), (trained, record.get("data", {}))]
    measured = [(measured_rows(data), metrics) for metrics, data in found if "accuracy" in metrics]
    return max(measured, key=itemgetter(0), default=(0, {}))[1]


def measured_rows(data: dict) -> float:
    """Return how many held-out rows the statistics in a record count; infinity if they count none."""
    return (data.get("test") or {}).get("kept") or math.inf


def report_reward_accuracy(config: OnlineConfig) -> None:
    """Print how well the reward model ranks held-out pairs; warn where it may be no better than chance."""
    path, stage = config.reward_model_path, getattr(spec_of_config(config), "name", "reward")
    if not path:
        return
    metrics = recorded_pair_metrics(path, config.reward_model_revision)
    if not metrics:
        say(f"{stage}: accuracy of {path} on held-out pairs unknown: run `hfkit evaluate {path} --datasets PAIRS`")
        return
    low, high = (metrics.get(f"accuracy_{end}", metrics["accuracy"]) for end in ("low", "high"))
    parts = [f"accuracy on held-out pairs {metrics['accuracy']:.3f} (95% interval {low:.3f} to {high:.3f})"]
    if "calibration_error" in metrics:
        parts.append(f"calibration error {metrics['calibration_error']:.3f}")
    if "longer_preferred" in metrics:
        parts.append(
            f"prefers the longer response in {metrics['longer_preferred']:.0%} of the pairs (the labels: "
            f"{metrics['longer_chosen']:.0%})"
        )
    say(f"{stage}: reward model: {', '.join(parts)}")
    if low <= 0.5:
        warn(
            f"{path} may be no better than chance on held-out pairs (accuracy {metrics['accuracy']:.3f}, {low:.3f} to "
            f"{high:.3f}), and the policy would learn noise. Train it on more pairs, or from the SFT model; set "
            "min_reward_accuracy to fail below an accuracy"
        )


def probe_rewards(
    policy: Model, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, rows: Dataset, args: OnlinePolicyArguments
) -> dict[str, dict[str, float]]:
    """Score the policy's own responses to a few prompts, before the first step, and worthless ones made from them.

    These are the rewards of training with `missing_eos_penalty`, before normalization and clipping.

    Returns:
        what `reward_probes.run_probes` returns; {} for a single prompt, since off-topic responses come from other
        prompts.
    """
    prompt_rows = [rows[index] for index in range(min(len(rows), PROBED_PROMPTS))]
    if len(prompt_rows) < 2:
        return {}
    prompts = [row["input_ids"] for row in prompt_rows]
    stop_token_ids = stop_ids(policy.generation_config, tokenizer)
    size = args.per_device_eval_batch_size
    was_training = policy.training
    policy.eval()
    with (
        autocast(args.bf16, policy.device),
        whole_weights(policy),
        engine_of(args, policy, tokenizer) as engine,
    ):
        limits = (args.response_length, args.temperature, args.seed, size, stop_token_ids)
        replies = generate_replies(policy, tokenizer, prompts, *limits, engine=engine)
    policy.train(was_training)
    replies = [
        end_as_trained(tokenizer, reply, stop_token_ids, variables_of(row))
        for reply, row in zip(replies, prompt_rows, strict=True)
    ]

    def score(replies: list[list[int]]) -> torch.Tensor:
        ended = torch.tensor([reply[-1] in stop_token_ids for reply in replies])
        with autocast(args.bf16, policy.device):
            total = scorer(prompts, replies, prompt_rows)["total"]
        return shape_scores(total, ended, None, None, args.missing_eos_penalty)

    with whole_weights(scorer.reward_model):
        probes = run_probes(score, replies, turn_end(tokenizer).ids[-1])
    if is_main_process():
        print_probes(probes, f"rewards of responses to {len(prompt_rows)} prompts, before training")
    for warning in probe_warnings(probes):
        warn(warning)
    return probes
