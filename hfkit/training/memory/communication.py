"""Counts the bytes that the processes of a launch send each other in an optimizer step.

Collectives run around a ring (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"): of n processes each
sends (n-1)/n of a tensor to gather it or to scatter its sum, and twice that to reduce it in all.
"""

from math import ceil

from hfkit.training.memory.formulas import BF16, FP32
from hfkit.training.memory.peak import computes_in_half
from hfkit.training.memory.processes import Launch, size_of
from hfkit.training.memory.rows import micro_batch_tokens, step_tokens, sums_each_pass
from hfkit.training.memory.shapes import Role


def sent_bytes(stage, roles: list[Role], launch: Launch) -> int:
    """Return the bytes that one process sends in an optimizer step, without the weights that PPO samples with."""
    config, half, is_ppo = stage.config, computes_in_half(stage), stage.spec.loop == "ppo"
    trained = sum(weight.count for role in roles for weight in role.trained)
    gradients = (BF16 if half and launch.is_zero else FP32) * trained
    computed = [weight for role in roles if role.trained for weight in role.weights if not launch.leaves_whole(weight)]
    weights = BF16 * sum(weight.count for weight in computed) if half and launch.shares_states else size_of(computed)
    if is_ppo:
        passes = ceil(config.gradient_accumulation_steps / config.num_mini_batches)
    else:
        passes = ceil(
            step_tokens(stage.spec, config, stage.replies) / micro_batch_tokens(stage.spec, config, stage.replies)
        )
    sums = passes if is_ppo or sums_each_pass(config) else 1
    sent = {
        "ddp": 2 * gradients,
        "zero2": passes * gradients + gradients,  # the updated weights are as large
        "fsdp2": 2 * passes * weights + sums * gradients,
        "zero3": 2 * passes * weights + passes * gradients,
    }
    return sent[launch.engine] * (launch.processes - 1) // launch.processes
