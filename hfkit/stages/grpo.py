"""hfkit grpo configs/quickstart/grpo.yaml

Group relative policy optimization with TRL's GRPOTrainer (arXiv 2402.03300) on prompts, with rewards from a reward
model, from functions, or from both: several replies to each prompt are compared with one another, and no value model is
trained. The KL reference is the SFT model that the policy starts from, on the same base.
"""

from pathlib import Path

from hfkit.config.stages import GRPOConfig
from hfkit.hub.push_to_hub import push_when_done
from hfkit.rlhf import GRPOTrainer
from hfkit.stages.online import train_in_groups


@push_when_done
def main(config: GRPOConfig) -> Path:
    """Train the policy, or a LoRA adapter on the SFT model, and return the run's folder."""
    return train_in_groups(config, "grpo", GRPOTrainer)
