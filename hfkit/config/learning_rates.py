"""Learning rates by stage, for full fine-tuning and LoRA: the default, and the usual range.

Sources of the defaults:

- SFT: TRL's SFTConfig (full, 2e-5); QLoRA, arXiv 2305.14314 (LoRA, 2e-4 up to 13B). LoRA takes about ten times the
  rate of full fine-tuning, at any rank: "LoRA Without Regret" (Schulman et al. 2025).
- Reward: OpenRLHF and InstructGPT (arXiv 2203.02155; full, 9e-6); TRL's RewardConfig (LoRA, 1e-4).
- PPO: TRL's PPOConfig and arXiv 2403.17031 (full, 3e-6); LoRA as measured in docs/ppo_explained.md.
- GRPO and RLOO: TRL's GRPOConfig and RLOOConfig, arXiv 2402.03300 (full, 1e-6); LoRA as PPO.
- DPO: TRL's DPOConfig (full, 1e-6); Zephyr, arXiv 2310.16944 (5e-7 full, 5e-6 QLoRA). LoRA takes about ten times the
  rate, as above.
- Pretraining: axolotl's and minimind's recipes (5e-4); an adapter on a pretrained model learns as in SFT.

The ranges are wide: small models need larger rates, and `configs/quickstart` the largest of all.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A default learning rate, and the lowest and highest usual ones."""

    default: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of a stage, for full fine-tuning and for a LoRA adapter."""

    full: Rate
    lora: Rate

    def of(self, use_peft: bool) -> Rate:
        """Return the rate for an adapter or for all weights."""
        return self.lora if use_peft else self.full

    def __str__(self) -> str:
        return f"{self.full.default:g}, with use_peft {self.lora.default:g}"


SFT_RATES = LearningRates(full=Rate(2e-5, 1e-6, 1e-4), lora=Rate(2e-4, 1e-5, 5e-3))
REWARD_RATES = LearningRates(full=Rate(1e-5, 5e-7, 1e-4), lora=Rate(1e-4, 5e-6, 5e-3))
PPO_RATES = LearningRates(full=Rate(3e-6, 1e-7, 5e-5), lora=Rate(1e-4, 1e-6, 1e-3))
GROUP_RATES = LearningRates(full=Rate(1e-6, 1e-8, 5e-5), lora=Rate(1e-4, 1e-6, 2e-3))
DPO_RATES = LearningRates(full=Rate(1e-6, 1e-8, 1e-5), lora=Rate(1e-5, 1e-7, 1e-3))
PRETRAIN_RATES = LearningRates(full=Rate(5e-4, 1e-6, 1e-2), lora=Rate(2e-4, 1e-5, 5e-3))


def rate_warning(stage: str, config) -> str | None:
    """Return a warning about a stage's learning rate outside the usual range, or None."""
    rate, usual = config.learning_rate, config.learning_rates.of(config.use_peft)
    if usual.lowest <= rate <= usual.highest:
        return None
    side, hint = ("low", "") if rate < usual.lowest else ("high", "; small models need higher rates")
    mode = "LoRA" if config.use_peft else "full fine-tuning"
    return (
        f"learning_rate: {rate:g} is {side} for {stage} with {mode}, where {usual.lowest:g} to {usual.highest:g} is "
        f"usual (default: {usual.default:g}{hint})"
    )
