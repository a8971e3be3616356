"""hfkit: from raw text to an RLHF assistant in four stages, with the Hugging Face libraries.

    import hfkit

    model, tokenizer = hfkit.load_policy("runs/quickstart/ppo")
    reward = hfkit.load_reward("runs/quickstart/reward")
    hfkit.sft(model_name_or_path=..., datasets=..., output_dir=...)

Names are imported on first use, so that `hfkit --help` does not wait for torch.
"""

from importlib import import_module

from hfkit.core.console import quiet_libraries

__version__ = "0.1.0"

_LOCATIONS = {
    "load_policy": ("hfkit.models.loading", "load_policy"),
    "load_reward": ("hfkit.models.reward_model", "load_reward"),
    "train_tokenizer": ("hfkit.stages.entry_points", "train_tokenizer"),
    "pretrain": ("hfkit.stages.entry_points", "pretrain"),
    "sft": ("hfkit.stages.entry_points", "sft"),
    "reward": ("hfkit.stages.entry_points", "reward"),
    "dpo": ("hfkit.stages.entry_points", "dpo"),
    "ppo": ("hfkit.stages.entry_points", "ppo"),
    "grpo": ("hfkit.stages.entry_points", "grpo"),
    "rloo": ("hfkit.stages.entry_points", "rloo"),
    "push": ("hfkit.hub.push", "push"),
    "push_data": ("hfkit.hub.push_data", "push_data"),
    "pull": ("hfkit.hub.pull", "pull"),
    "run_pipeline": ("hfkit.stages.pipeline", "run_pipeline"),
    "DatasetEntry": ("hfkit.config.fields", "DatasetEntry"),
    **{
        name: ("hfkit.config.stages", name)
        for name in (
            *("TokenizerConfig", "PretrainConfig", "SFTConfig", "RewardConfig"),
            *("DPOConfig", "PPOConfig", "GRPOConfig", "RLOOConfig"),
        )
    },
}

__all__ = ["__version__", *_LOCATIONS]


def __getattr__(name: str):
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'hfkit' has no attribute {name!r}")
    quiet_libraries(bars=True)
    module, attribute = _LOCATIONS[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
