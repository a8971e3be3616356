"""Validates the keys that only DPO has: its losses, and what they need."""

from hfkit.config.stages import OF_THE_BATCH, DPOConfig
from hfkit.core.errors import Problem
from hfkit.stages.checks.rules import broken_rules

LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""The losses of TRL 1.12's DPOTrainer."""
WITH_DIVERGENCE = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
"""Losses that TRL computes from the scores of `f_divergence_type`, and `sft`, which has none; the others ignore it."""
DROPOUT = "TRL's DPOTrainer turns dropout off: set 0, or disable_dropout: false"
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""Losses that use `label_smoothing`."""


def dpo_problems(config: DPOConfig) -> list[Problem]:
    """Return every problem of the keys that only DPO has."""
    losses, smoothing = config.loss_type, config.label_smoothing
    unknown = [loss for loss in losses if loss not in LOSSES]
    rules = [
        (not losses or unknown, "loss_type", f"expected names of: {', '.join(LOSSES)}"),
        (config.beta <= 0, "beta", "must be above 0"),
        (config.lora_dropout and config.extra.get("disable_dropout", True), "lora_dropout", DROPOUT, "disable_dropout"),
        (not 0 <= smoothing < 0.5, "label_smoothing", "expected a share of wrong labels: 0 or more, below 0.5"),
        (smoothing and not SMOOTHED & {*losses}, "label_smoothing", f"only {', '.join(sorted(SMOOTHED))} use it"),
        ("exo_pair" in losses and not smoothing, "label_smoothing", "exo_pair needs it: 0.001 is common", "loss_type"),
    ]
    if config.max_tokens_per_micro_batch and (whole := [loss for loss in losses if loss in OF_THE_BATCH]):
        remedy = f"has no effect on {', '.join(whole)}, which is computed of whole batches: remove it"
        rules.append((True, "max_tokens_per_micro_batch", remedy, "loss_type"))
    return broken_rules(config, rules) + extra_problems(config)


def extra_problems(config: DPOConfig) -> list[Problem]:
    """Return the problems of fields of TRL's DPOConfig that `--help` does not list."""
    extra, losses, problems = config.extra, {*config.loss_type}, []
    weights, divergence = extra.get("loss_weights"), extra.get("f_divergence_type", "reverse_kl")
    if weights is not None and len(weights) != len(config.loss_type):
        remedy = f"expected {len(config.loss_type)}, one for each of: {', '.join(config.loss_type)}"
        problems.append(Problem("loss_weights", weights, remedy, keys=("loss_type",)))
    if divergence != "reverse_kl" and not losses <= WITH_DIVERGENCE:
        remedy = f"only these losses use it: {', '.join(sorted(WITH_DIVERGENCE))}"
        problems.append(Problem("f_divergence_type", divergence, remedy, keys=("loss_type",)))
    if extra.get("use_weighting") and {"aot", "aot_unpaired"} & losses:
        problems.append(
            Problem(
                "use_weighting",
                True,
                "aot sorts the pairs of a batch, and their weights would belong to other pairs: remove it",
            )
        )
    return problems
