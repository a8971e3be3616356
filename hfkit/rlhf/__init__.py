"""PPO for language models: hfkit's own training loop behind the interface of TRL 1.12's PPOTrainer; GRPO and RLOO.

The trainers and their arguments are imported on first use, so that a config is parsed without torch.
"""

from importlib import import_module

MODULES = {
    "DPOArguments": "hfkit.rlhf.arguments",
    "GRPOArguments": "hfkit.rlhf.arguments",
    "GRPOTrainer": "hfkit.rlhf.online_trainer",
    "PPOArguments": "hfkit.rlhf.arguments",
    "PPOTrainer": "hfkit.rlhf.trainer",
    "RLOOArguments": "hfkit.rlhf.arguments",
    "RLOOTrainer": "hfkit.rlhf.online_trainer",
}


def __getattr__(name: str) -> type:
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module 'hfkit.rlhf' has no attribute {name!r}")
