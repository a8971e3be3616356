"""PPO: a loop of our own inside trl's PPOTrainer, which is imported in `trainer.py` and `config.py` alone."""

from importlib import import_module


def __getattr__(name: str):
    if name in ("PPOConfig", "PPOTrainer"):
        return getattr(import_module("hfkit.rlhf.trainer"), name)
    raise AttributeError(f"module 'hfkit.rlhf' has no attribute {name!r}")
