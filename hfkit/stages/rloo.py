"""hfkit rloo configs/quickstart/rloo.yaml

REINFORCE leave-one-out with TRL's RLOOTrainer (arXiv 2402.14740) on prompts, with rewards from a reward model, from
functions, or from both: several replies to each prompt are compared with one another, and no value model is trained.
The KL reference is the SFT model that the policy starts from, on the same base.
"""

from pathlib import Path

from hfkit.config.stages import RLOOConfig
from hfkit.hub.push_to_hub import push_when_done
from hfkit.rlhf import RLOOTrainer
from hfkit.stages.online import train_in_groups


@push_when_done
def main(config: RLOOConfig) -> Path:
    """Train the policy, or a LoRA adapter on the SFT model, and return the run's folder."""
    return train_in_groups(config, "rloo", RLOOTrainer)
