"""Decides what a run's config leaves open by the GPU's free memory: micro-batches and activation checkpointing."""

from dataclasses import replace

from hfkit.config.registry import STAGES
from hfkit.core.console import say, warn
from hfkit.core.device import device
from hfkit.core.errors import reason
from hfkit.core.launch import fsdp_recomputes
from hfkit.training.memory.checkpointing import Checkpointing, decide_checkpointing
from hfkit.training.memory.device import Device, free_gpu
from hfkit.training.memory.micro_batch import decide_micro_batch
from hfkit.training.memory.planned_stage import plan_stage
from hfkit.training.memory.processes import this_launch
from hfkit.training.memory.rows import micro_batch_tokens, replies_per_row


def plan_run(run, replies: int | None = None):
    """Set the open keys in a run's config and return it; record them, and the tokens of a micro-batch.

    Call it before models are loaded, since it counts the free memory. The config in the record is not changed, so that
    a run may resume on another GPU.

    Args:
        run: from `open_run`, with its own copy of the config.
        replies: the most sequences of a row, if the stage knows.
    """
    config, spec = run.config, STAGES[run.stage]
    decided, tokens = Checkpointing(bool(config.gradient_checkpointing)), config.max_tokens_per_micro_batch
    if device().type == "cuda":
        decided, tokens = decide_on(free_gpu(), run.stage, config, replies)
    # in place, since the explanation of a full GPU reads them too
    config.gradient_checkpointing, config.max_tokens_per_micro_batch = decided.enabled, tokens
    run.note(
        gradient_checkpointing={"enabled": decided.enabled, "needed": decided.needed, "available": decided.available},
        micro_batch_tokens=micro_batch_tokens(spec, config, replies or replies_per_row(spec, config)),
    )
    return config


def decide_on(on: Device, name: str, config, replies: int | None = None) -> tuple[Checkpointing, int | None]:
    """Return the decision on checkpointing and `max_tokens_per_micro_batch` for a GPU, and report what was open.

    If the memory of the model cannot be planned, activations are recomputed and micro-batches do not grow.
    """
    asked = config.gradient_checkpointing
    if fsdp_recomputes():  # the engine does what the key would do
        asked = False
    try:
        launch = this_launch(config.extra)
        open_stage = plan_stage(name, replace(config, gradient_checkpointing=asked), {}, on, replies)
        stage, decided = decide_checkpointing(decide_micro_batch(open_stage, on, launch), on, launch)
    except Exception as error:  # an architecture may lack any of the widths that a plan needs
        if asked is None:
            warn(f"gradient_checkpointing: on, since the memory of this model cannot be planned: {reason(error)}")
        return Checkpointing(asked is None or asked), config.max_tokens_per_micro_batch
    tokens = stage.config.max_tokens_per_micro_batch
    if tokens != config.max_tokens_per_micro_batch:
        say(f"{name}: max_tokens_per_micro_batch: {tokens:,}, with which a step takes less time")
    if asked is None:
        say(f"{name}: {decided}")
    return decided, tokens
