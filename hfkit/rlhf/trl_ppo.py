"""The classes of TRL's PPO that hfkit's inherit from, for code that asks `isinstance`. TRL 1.13 and later have none.

No other module asks which TRL is installed: fields, constructor and loop are hfkit's own, and the same under each.
"""

try:
    from trl.experimental.ppo import PPOConfig as ArgumentsBase
    from trl.experimental.ppo import PPOTrainer as TrainerBase
except ImportError:
    from transformers import Trainer as TrainerBase  # type: ignore[assignment]  # noqa: F401
    from transformers import TrainingArguments as ArgumentsBase  # type: ignore[assignment]  # noqa: F401
