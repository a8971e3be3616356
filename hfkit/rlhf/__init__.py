"""PPO from trl, with its faults cured. All of trl's PPO imports are in `trainer.py`."""

from importlib import import_module


def __getattr__(name: str):
    if name in ("PPOConfig", "PPOTrainer"):
        return getattr(import_module("hfkit.rlhf.trainer"), name)
    raise AttributeError(f"module 'hfkit.rlhf' has no attribute {name!r}")
