"""Validates what only a DPO config has: which losses there are, and what they need."""

from hfkit.config.stages import OF_THE_BATCH, DPOConfig
from hfkit.core.errors import Problem
from hfkit.stages.checks.rules import broken_rules, unused_rules

LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""The losses of TRL 1.12's DPOTrainer."""
OF_DIFFERENCES = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
"""Losses that TRL computes from the scores of `f_divergence_type`, and `sft`, which has none; the others ignore it."""
PRECOMPUTED, DIVERGENCE = "precompute_ref_log_probs", "f_divergence_type"
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""Losses that use `label_smoothing`."""


def dpo_problems(config: DPOConfig) -> list[Problem]:
    """Return every problem of DPO's own fields, and of further fields of TRL's DPOConfig."""
    losses, smoothing = config.loss_type, config.label_smoothing
    unknown = [loss for loss in losses if loss not in LOSSES]
    rules = [
        (not losses or unknown, "loss_type", f"expected names of: {', '.join(LOSSES)}"),
        (config.beta <= 0, "beta", "must be above 0"),
        (not 0 <= smoothing < 0.5, "label_smoothing", "expected a share of wrong labels: 0 or more, below 0.5"),
        (smoothing and not SMOOTHED & {*losses}, "label_smoothing", f"only {', '.join(sorted(SMOOTHED))} use it"),
        ("exo_pair" in losses and not smoothing, "label_smoothing", "exo_pair needs it: 0.001 is common", "loss_type"),
    ]
    if config.max_tokens_per_micro_batch and (whole := [loss for loss in losses if loss in OF_THE_BATCH]):
        remedy = f"has no effect on {', '.join(whole)}, which is computed of whole batches: remove it"
        rules.append((True, "max_tokens_per_micro_batch", remedy, "loss_type"))
    return broken_rules(config, rules + extra_rules(config))


def extra_rules(config: DPOConfig) -> list[tuple]:
    """Return the rules of further fields of TRL's DPOConfig."""
    extra, losses = config.extra, {*config.loss_type}
    weights, divergence = extra.get("loss_weights"), extra.get("f_divergence_type", "reverse_kl")
    alpha, tau, batch = (extra.get(name) for name in ("ld_alpha", "discopop_tau", "precompute_ref_batch_size"))
    count = f"expected {len(config.loss_type)}, one for each of: {', '.join(config.loss_type)}"
    differs = weights is not None and len(weights) != len(config.loss_type)
    other = f"only these losses use it: {', '.join(sorted(OF_DIFFERENCES))}"
    sorts = "aot sorts the pairs of a batch, and their weights would belong to other pairs: remove it"
    is_alpha = divergence == "alpha_divergence"
    return [
        (differs, "loss_weights", count, "loss_type"),
        (weights and min(weights) < 0, "loss_weights", "must not be negative: what is rejected would be learned"),
        (weights and not any(weights), "loss_weights", "all are 0: nothing would be trained"),
        (divergence != "reverse_kl" and not losses <= OF_DIFFERENCES, "f_divergence_type", other, "loss_type"),
        (extra.get("use_weighting") and {"aot", "aot_unpaired"} & losses, "use_weighting", sorts),
        (alpha is not None and not 0 <= alpha <= 1, "ld_alpha", "must be from 0 to 1"),
        (alpha is not None and losses == {"sft"}, "ld_alpha", "sft does not use it: remove it", "loss_type"),
        (tau is not None and tau <= 0, "discopop_tau", "must be above 0"),
        (batch is not None and batch < 1, "precompute_ref_batch_size", "must be above 0"),
        *unused_rules(
            config,
            {
                "discopop_tau": ("discopop" in losses, "without loss_type: discopop", "loss_type"),
                "precompute_ref_batch_size": (extra.get(PRECOMPUTED), f"without {PRECOMPUTED}", PRECOMPUTED),
                "f_alpha_divergence_coef": (is_alpha, f"without {DIVERGENCE}: alpha_divergence", DIVERGENCE),
            },
        ),
    ]
