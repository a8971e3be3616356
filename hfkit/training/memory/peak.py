"""The peak memory of a stage: what it holds all the time, and what its largest phase adds."""

from dataclasses import dataclass, replace
from math import ceil

from hfkit.core.compat import has_plain_loss
from hfkit.training.memory import formulas
from hfkit.training.memory.device import Device
from hfkit.training.memory.formulas import BF16, FP32, Pass
from hfkit.training.memory.rows import micro_batch_tokens, step_tokens
from hfkit.training.memory.shapes import Role, quantized_bits, roles_of


@dataclass(frozen=True)
class RolePlan:
    """Parameters and bytes of one model; shared weights count in `parameters`, but not in the bytes."""

    name: str
    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of a stage, in bytes.

    Attributes:
        roles: its models.
        activations: of the forward and backward pass of one batch.
        logits: with what is computed from them.
        phases: what each phase of the stage adds to weights, optimizer states and libraries.
        taken: by the libraries.
    """

    roles: list[RolePlan]
    activations: int
    logits: int
    phases: dict[str, int]
    taken: int

    @property
    def peak(self) -> int:
        """Bytes that every phase holds, with those that the largest one adds."""
        standing = self.taken + sum(role.weights + role.optimizer for role in self.roles)
        return standing + max(self.phases.values())

    @property
    def phase(self) -> str:
        """Name of the phase with the peak."""
        return max(self.phases, key=self.phases.get)


def plan_memory(stage, device: Device) -> MemoryPlan:
    """Return the memory of a stage (a `PlannedStage`) on a device."""
    roles = roles_of(stage)
    optim, nested = stage.arguments.optim, stage.config.use_bnb_nested_quant
    lines = [
        RolePlan(
            role.name,
            sum(weight.count for weight in role.weights),
            sum(weight.count for weight in role.weights if weight.trained),
            formulas.weight_bytes(role.held, nested),
            formulas.gradient_bytes(role.held),
            formulas.optimizer_bytes(role.held, optim),
        )
        for role in roles
    ]
    trained = [weight for role in roles for weight in role.trained]
    gradients = sum(line.gradients for line in lines)
    phases_of = ppo_phases if stage.spec.loop == "ppo" else trainer_phases
    activations, logits, phases = phases_of(stage, roles, gradients, device)
    phases["step"] = gradients + formulas.step_bytes(trained, optim, device.is_gpu)
    return MemoryPlan(lines, activations, logits, phases, device.taken)


def trainer_phases(stage, roles: list[Role], gradients: int, device: Device) -> tuple[int, int, dict[str, int]]:
    """Return activations, logits, and what each phase of Transformers' loop adds.

    Gradients replace activations in the backward, unless they accumulate: then they exist from the first pass on.
    """
    config, role = stage.config, roles[0]
    tokens = micro_batch_tokens(stage.spec, config, stage.replies)
    run = training_pass(stage, role, ceil(tokens / stage.row_length), stage.row_length, device)
    kept = formulas.kept_bytes(role.decoder, run)
    backward = formulas.backward_bytes(role.decoder, run, largest_cast(role, run))
    logits = stage_loss_bytes(stage, role, run)
    accumulated = gradients if tokens < step_tokens(stage.spec, config, stage.replies) else 0
    phases = {"loss": kept + logits + accumulated, "backward": max(kept + accumulated, gradients) + backward}
    if config.eval_datasets or config.test_split_size is not None:
        test = replace(run, rows=stage.replies * config.per_device_eval_batch_size)
        phases["eval"] = formulas.inference_bytes(role.decoder, test) + stage_loss_bytes(stage, role, test)
    return kept + backward, logits, phases


def stage_loss_bytes(stage, role: Role, run: Pass) -> int:
    """Return the bytes of a stage's logits and loss; a reward model has one logit a row."""
    if stage.spec.makes == "reward model":
        return run.rows * FP32
    if not hasattr(stage.arguments, "loss_type") or has_plain_loss(stage.arguments):  # pretraining has no such key
        return formulas.chunked_loss_bytes(role.decoder, run)
    return formulas.loss_bytes(role.decoder, run.tokens)


def ppo_phases(stage, roles: list[Role], gradients: int, device: Device) -> tuple[int, int, dict[str, int]]:
    """Return activations and logits of a PPO update, and what rollout, scoring and update add.

    Value model and policy learn one after the other, so only the activations of one are held at a time.
    """
    config, length = stage.config, stage.row_length
    policy, value = roles[0], roles[-1]
    size = config.per_device_train_batch_size
    replies = size * config.response_length
    accumulated = gradients if config.gradient_accumulation_steps > 1 else 0
    run = training_pass(stage, policy, size, length, device)
    logits = formulas.policy_loss_bytes(policy.decoder, run, replies)
    rows = min(size * config.gradient_accumulation_steps, config.local_rollout_forward_batch_size)
    sampled = replace(run, rows=rows)
    prompts = replace(sampled, length=config.max_prompt_length)
    sampling = formulas.sampling_bytes(policy.decoder, prompts, sampled)
    standing = device.taken + sum(formulas.weight_bytes(role.held, config.use_bnb_nested_quant) for role in roles)
    standing += sum(formulas.optimizer_bytes(role.held, stage.arguments.optim) for role in roles)
    copies = rollout_copies(config, policy, sampled, device.capacity - standing - sampling)
    phases = {
        "rollout": copies + sampling if config.rollout_engine != "vllm" else vllm_bytes(config, policy, device),
        "scoring": formulas.scoring_bytes(policy.decoder, run, replies),
    }
    activations = 0
    for role, loss in ((value, 0), (policy, logits)):
        run = training_pass(stage, role, size, length, device)
        kept = formulas.kept_bytes(role.decoder, run)
        backward = formulas.backward_bytes(role.decoder, run, largest_cast(role, run))
        phases[f"{role.name} loss"] = kept + loss + accumulated
        phases[f"{role.name} backward"] = max(kept + accumulated, gradients) + backward
        activations = max(activations, kept + backward)
    if config.ptx_coef:
        run = training_pass(stage, policy, size, config.ptx_max_length, device)
        loss = formulas.loss_bytes(policy.decoder, run.tokens)
        phases["ptx loss"] = formulas.kept_bytes(policy.decoder, run) + loss + accumulated
    return activations, logits, phases


def vllm_bytes(config, policy: Role, device: Device) -> int:
    """Return the bytes of rollouts with vLLM: the matrix that is merged, and vLLM's share of the GPU or its buffers.

    vLLM 0.27 packs the weights for a server into two buffers of 1 GiB, and has what it packs beside them.
    """
    merged = 2 * FP32 * max(weight.count for weight in policy.weights)
    if config.vllm_mode == "colocate":
        return merged + int(config.vllm_gpu_memory_utilization * device.capacity)
    return merged + min(4 << 30, 2 * FP32 * sum(weight.count for weight in policy.weights))


def rollout_copies(config, policy: Role, run: Pass, room: int) -> int:
    """Return the bytes of copies of matrices in rollouts: merged ones, or what autocast keeps.

    Args:
        room: bytes that are left for them; over a 4-bit base rollouts do without copies that do not fit.
    """
    merged = config.merge_in_rollouts and config.use_peft and not policy.decoder.dora
    copies = formulas.merged_bytes(policy.decoder, run)
    if quantized_bits(config) is None:
        merged = merged and (run.half or run.stream == FP32)
    else:
        merged = merged and config.load_in_4bit and config.dtype != "float16" and copies <= room
    return copies if merged else formulas.cached_bytes(policy.decoder, run)


def training_pass(stage, role: Role, rows: int, length: int, device: Device) -> Pass:
    """Return the forward pass, with a backward to follow, of one of a stage's models."""
    config, arguments = stage.config, stage.arguments
    adapter = next((weight.itemsize for weight in role.weights if weight.adapter), 0)
    return Pass(
        rows=rows,
        length=length,
        stream=max(weight.itemsize for weight in role.weights if weight.embedding),
        half=bool(arguments.bf16 or arguments.fp16),
        full=not adapter,
        adapter=adapter,
        dropout=config.lora_dropout > 0,
        padded=stage.spec.form != "text" and rows > 1,  # texts are packed into rows of one length
        eager=config.attn_implementation == "eager",
        checkpointing=bool(arguments.gradient_checkpointing),
        quantized=quantized_bits(config) is not None,
        on_gpu=device.is_gpu,
    )


def largest_cast(role: Role, run: Pass) -> int:
    """Return the bytes of the largest quantized weight, which its backward unpacks."""
    packed = [weight.count for weight in role.weights if weight.bits]
    return max(packed, default=0) * (BF16 if run.half or run.on_gpu else FP32)
