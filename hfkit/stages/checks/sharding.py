"""Which stages DeepSpeed and FSDP2 cannot train, in a launch and in the plan of one."""

from hfkit.config.registry import StageSpec

WITH_DDP = "train with DDP (`accelerate launch --multi_gpu`)"
EIGHT_BIT_UNDER_ZERO_3 = "ZeRO-3 cannot shard 8-bit weights: use ZeRO-2, or set load_in_4bit"


def sharding_remedy(spec: StageSpec, engine: str) -> str | None:
    """Return why an engine, DeepSpeed or FSDP2, cannot train a stage, with what can; None if it can."""
    if spec.loop == "ppo" and engine == "DeepSpeed":
        return (
            "PPO updates its models itself, so DeepSpeed would train nothing: train adapters with DDP "
            "(`accelerate launch --multi_gpu`), full models with FSDP2 (`--use_fsdp --fsdp_version 2`)"
        )
    if spec.loop != "ppo" and spec.holds_reference:
        return (
            f"{spec.title} holds a policy and its reference on one base, which {engine} would shard twice: {WITH_DDP}"
        )
    return None
