"""PPO for language models: hfkit's own training loop behind the interface of TRL's PPOTrainer.

`PPOTrainer` and `PPOArguments` are imported when they are first used, so that a config is parsed without torch.
"""

from importlib import import_module


def __getattr__(name: str) -> type:
    if name in ("PPOArguments", "PPOTrainer"):
        return getattr(import_module("hfkit.rlhf.trainer"), name)
    raise AttributeError(f"module 'hfkit.rlhf' has no attribute {name!r}")
