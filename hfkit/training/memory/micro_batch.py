"""Decides how many tokens a micro-batch has on a GPU: those with which a step takes the least time.

The rows of a step and its loss do not depend on it (`models/micro_batches.py`). Large micro-batches launch few kernels;
small ones may fit without recomputing their activations.
"""

import json
from dataclasses import replace
from functools import cache

from transformers import AutoModelForCausalLM, PreTrainedConfig

from hfkit.config.stages import OF_THE_BATCH
from hfkit.models.adapter_shape import on_meta
from hfkit.models.micro_batches import gpu_call_tokens
from hfkit.models.sft_loss import ROUTER_KEY, has_router_loss
from hfkit.training.memory.checkpointing import MARGIN, decide_checkpointing
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.planned_stage import PlannedStage
from hfkit.training.memory.processes import ALONE, Launch
from hfkit.training.memory.rows import joins_rows, micro_batch_tokens, shared_tokens
from hfkit.training.memory.shapes import roles_of
from hfkit.training.micro_batching import has_entropy_term

FASTER = 0.1
"""The share of a step's time that must be saved to change the rows of the config."""


def decide_micro_batch(stage: PlannedStage, on: Device, launch: Launch = ALONE) -> PlannedStage:
    """Return a stage with `max_tokens_per_micro_batch` set, if another number than that of the config saves time.

    The tokens of `per_device_train_batch_size` rows are halved and doubled, as far as a step has rows and the GPU has
    memory, with a margin. The result is as near to them as the time allows; a key that is set stays.
    """
    if not (on.is_gpu and is_open(stage, launch)):
        return stage
    times = {}
    for tokens in possible_tokens(stage, launch):
        decided, checkpointing = decide_checkpointing(with_tokens(stage, tokens), on, launch)
        if plan_memory(decided, on, launch).peak * MARGIN <= on.capacity:
            times[tokens] = time_per_token(stage, tokens, checkpointing.enabled)
    of_config = micro_batch_tokens(stage.spec, stage.config, stage.replies)
    fast = [tokens for tokens, time in times.items() if time * (1 - FASTER) <= min(times.values())]
    nearest = min(fast, key=lambda tokens: max(tokens / of_config, of_config / tokens), default=of_config)
    return stage if nearest == of_config else with_tokens(stage, nearest)


def is_open(stage: PlannedStage, launch: Launch) -> bool:
    """Return whether the tokens of a micro-batch can be chosen.

    DeepSpeed counts the passes of a step itself. vLLM in the process of the run keeps its share of the GPU.
    """
    config = stage.config
    shares_gpu = stage.spec.samples_replies and config.rollout_engine == "vllm" and config.vllm_mode == "colocate"
    is_cut = config.micro_batches_by_length and not joins_rows(config) and not launch.engine.startswith("zero")
    is_unset = config.max_tokens_per_micro_batch is None
    return is_cut and is_unset and not shares_gpu and not needs_whole_batches(stage)


def needs_whole_batches(stage: PlannedStage) -> bool:
    """Return whether a trainer computes whole batches, since a term of its loss is not a sum over rows.

    See `MicroBatching`, `MicroBatchedDPOTrainer` and `OnlineBatches.is_cut`. PPO's loss has no such term.
    """
    if stage.spec.loop == "ppo":
        return False
    arguments, model = stage.arguments, stage.start.config.get_text_config()
    router, coefficient = getattr(model, "output_router_logits", None), getattr(arguments, ROUTER_KEY, None)
    if coefficient is None and hasattr(arguments, ROUTER_KEY):  # TRL 1.14: that of the model
        coefficient = getattr(model, ROUTER_KEY, 0.0)
    adds_router_loss = bool(router)
    if coefficient is not None:  # otherwise the trainer follows the config alone
        adds_router_loss = router is not None and coefficient != 0 and has_routers(stage.start.config)
    is_whole = not stage.spec.samples_replies and {*OF_THE_BATCH} & {*getattr(stage.config, "loss_type", [])}
    return bool(adds_router_loss or has_entropy_term(arguments) or is_whole)


def has_routers(config: PreTrainedConfig) -> bool:
    """Return whether a language model of this config computes a router loss; builds the model without weights.

    Architectures with experts may have dense models, such as Granite 4.0 Micro, whose configs have router settings too.
    """
    return _has_routers(type(config), json.dumps(config.to_dict()))


@cache
def _has_routers(kind: type[PreTrainedConfig], given: str) -> bool:
    return has_router_loss(on_meta(kind.from_dict(json.loads(given)), AutoModelForCausalLM))


def possible_tokens(stage: PlannedStage, launch: Launch = ALONE) -> list[int]:
    """Return the tokens of `per_device_train_batch_size` rows, doubled and halved, from one row to all that can share a
    micro-batch, in ascending order.

    FSDP2 gathers the weights for each micro-batch, so that smaller ones would take more time to communicate.
    """
    row, most = stage.replies * stage.row_length, shared_tokens(stage.spec, stage.config, stage.replies)
    first = tokens = micro_batch_tokens(stage.spec, stage.config, stage.replies)
    found = {first}
    while tokens < most:
        tokens = min(2 * tokens, most)
        found.add(tokens)
    tokens = row if launch.shares_weights else first
    while tokens > row:
        tokens = max(tokens // 2, row)
        found.add(tokens)
    return sorted(found)


def time_per_token(stage: PlannedStage, tokens: int, recomputes: bool) -> float:
    """Return the time of training on a token, as a multiple of its forward pass without launching kernels.

    The backward pass takes as long as the forward pass for the activations, and again for trained weights; adapters are
    small. Recomputing is another forward pass.
    """
    model = roles_of(stage)[0]
    call = gpu_call_tokens(model.decoder.layers, sum(weight.count for weight in model.weights))
    passes = (2 if stage.config.use_peft else 3) + recomputes
    return passes * (1 + call / tokens)


def with_tokens(stage: PlannedStage, tokens: int) -> PlannedStage:
    """Return a stage with `max_tokens_per_micro_batch` set."""
    return replace(stage, config=replace(stage.config, max_tokens_per_micro_batch=tokens))
