"""The classes of TRL's PPO that hfkit's classes inherit from, for `isinstance`; TRL 1.13 and later have none.

Fields, constructor and loop are hfkit's own, so no other module depends on the version of TRL.
"""

try:
    from trl.experimental.ppo import PPOConfig as ArgumentsBase
    from trl.experimental.ppo import PPOTrainer as TrainerBase
except ImportError:
    from transformers import Trainer as TrainerBase  # type: ignore[assignment]  # noqa: F401
    from transformers import TrainingArguments as ArgumentsBase  # type: ignore[assignment]  # noqa: F401
