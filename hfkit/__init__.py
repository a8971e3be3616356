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
    "train_tokenizer": ("hfkit.stages.entry_points", "tokenizer"),
    "push": ("hfkit.hub.push", "push"),
    "push_data": ("hfkit.hub.dataset_upload", "push_data"),
    "pull": ("hfkit.hub.pull", "pull"),
    "run_pipeline": ("hfkit.commands.run", "run"),
    "DatasetEntry": ("hfkit.config.fields", "DatasetEntry"),
}

__all__ = ["__version__", *_LOCATIONS]
"""Each stage of the registry is a function too, and its config a class: `hfkit.sft`, `hfkit.SFTConfig`."""


def __getattr__(name: str):
    if not name.startswith("_") and (location := _LOCATIONS.get(name) or _stage_locations().get(name)):
        quiet_libraries(bars=True)
        module, attribute = location
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'hfkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_stage_locations()})


def _stage_locations() -> dict[str, tuple[str, str]]:
    """Return module and attribute of the stages' functions and of their config classes."""
    stages = import_module("hfkit.config.registry").STAGES
    configs = [spec.config_class for spec in stages.values()]
    functions = {name: ("hfkit.stages.entry_points", name) for name in stages}
    return functions | {config.__name__: (config.__module__, config.__name__) for config in configs}
