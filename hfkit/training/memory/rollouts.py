"""The memory that rollouts add: keys and values, logits, and copies of the policy's matrices."""

from dataclasses import replace

from hfkit.training.memory import formulas
from hfkit.training.memory.device import Device
from hfkit.training.memory.formulas import FP32, Pass
from hfkit.training.memory.processes import Launch
from hfkit.training.memory.shapes import Role, quantized_bits


def rollout_bytes(stage, roles: list[Role], sampled: Pass, device: Device, launch: Launch) -> int:
    """Return the bytes that sampling responses adds.

    Args:
        roles: the models in memory, the policy first.
        sampled: the prompts and responses that are sampled at once.
    """
    config, policy = stage.config, roles[0]
    if config.rollout_engine == "vllm":
        return vllm_bytes(config, policy, device)
    sampling = formulas.sampling_bytes(policy.decoder, replace(sampled, length=config.max_prompt_length), sampled)
    held = [launch.held(role.held) for role in roles]
    standing = device.taken + sum(formulas.weight_bytes(weights, config.use_bnb_nested_quant) for weights in held)
    standing += sum(formulas.optimizer_bytes(launch.stepped(role.held), stage.arguments) for role in roles)
    return rollout_copies(config, policy, sampled, device.capacity - standing - sampling) + sampling


def vllm_bytes(config, policy: Role, device: Device) -> int:
    """Return the bytes of rollouts with vLLM: the largest matrix, merged, and vLLM's share of the GPU or its buffers.

    vLLM 0.33, like 0.27, packs the weights for a server into two buffers of 1 GiB; the weights being packed take as
    much again.
    """
    merged = 2 * FP32 * max(weight.count for weight in policy.weights)
    if config.vllm_mode == "colocate":
        return merged + int(config.vllm_gpu_memory_utilization * device.capacity)
    return merged + min(4 << 30, 2 * FP32 * sum(weight.count for weight in policy.weights))


def rollout_copies(config, policy: Role, run: Pass, room: int) -> int:
    """Return the bytes of the copies of matrices that rollouts keep: merged ones, or those that autocast caches.

    Args:
        run: the pass that samples.
        room: free bytes; over a 4-bit base, copies that do not fit are not made.
    """
    merged = config.merge_in_rollouts and config.use_peft and not policy.decoder.dora
    copies = formulas.merged_bytes(policy.decoder, run)
    if quantized_bits(config) is None:
        merged = merged and (run.half or run.stream == FP32)
    else:
        merged = merged and config.load_in_4bit and config.dtype != "float16" and copies <= room
    return copies if merged else formulas.cached_bytes(policy.decoder, run)
