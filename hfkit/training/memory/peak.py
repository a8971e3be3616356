"""Computes the peak memory of a stage: the memory that it always holds, plus that of its largest phase."""

from dataclasses import dataclass, replace
from math import ceil

from hfkit.core.compat_trl import fused_head_tile, has_plain_loss
from hfkit.models.shared_prefixes import split_rows
from hfkit.training.arguments import max_tokens
from hfkit.training.memory import formulas, loss_formulas
from hfkit.training.memory.device import Device
from hfkit.training.memory.formulas import BF16, FP32, Pass
from hfkit.training.memory.processes import ALONE, Launch, gathered_size
from hfkit.training.memory.rollouts import rollout_bytes
from hfkit.training.memory.rows import micro_batch_tokens, shared_tokens, step_tokens, sums_each_pass
from hfkit.training.memory.shapes import Role, quantized_bits, roles_of


@dataclass(frozen=True)
class RolePlan:
    """Parameters of one model and its bytes in a process; shared weights count in `parameters`, not in the bytes."""

    name: str
    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of a process of a stage, in bytes.

    Attributes:
        roles: its models.
        activations: of the forward and backward pass of one batch.
        logits: with what is computed from them.
        phases: memory that each phase adds to weights, optimizer states and libraries.
        taken: by the libraries.
        buckets: the engine's buffers for gradients to send.
    """

    roles: list[RolePlan]
    activations: int
    logits: int
    phases: dict[str, int]
    taken: int
    buckets: int = 0

    @property
    def peaks(self) -> dict[str, int]:
        """Bytes in each phase: those that are always held, plus those that the phase adds."""
        standing = self.taken + self.buckets + sum(role.weights + role.optimizer for role in self.roles)
        return {phase: standing + added for phase, added in self.phases.items()}

    @property
    def peak(self) -> int:
        """Bytes in the largest phase."""
        return max(self.peaks.values())

    @property
    def phase(self) -> str:
        """Name of the phase with the peak."""
        return max(self.phases, key=self.phases.get)


def plan_memory(stage, device: Device, launch: Launch = ALONE) -> MemoryPlan:
    """Return the memory of a process of a stage (a `PlannedStage`) on a device."""
    roles, optim = roles_of(stage), stage.arguments.optim
    half, nested = computes_in_half(stage), stage.config.use_bnb_nested_quant
    lines = [
        RolePlan(
            role.name,
            sum(weight.count for weight in role.weights),
            sum(weight.count for weight in role.weights if weight.trained),
            formulas.weight_bytes(launch.held(launch.converted(role.held, half)), nested),
            formulas.gradient_bytes(launch.stepped(launch.converted(role.held, half))),
            formulas.optimizer_bytes(launch.stepped(role.held), stage.arguments) + launch.copies(role.held),
        )
        for role in roles
    ]
    trained = [weight for role in roles for weight in role.trained]
    gradients = sum(line.gradients for line in lines)
    phases_of = group_phases if stage.spec.samples_replies else trainer_phases
    phases_of = ppo_phases if stage.spec.loop == "ppo" else phases_of
    activations, logits, phases = phases_of(stage, roles, gradients, device, launch)
    phases["step"] = gradients + formulas.step_bytes(launch.step_groups(trained), optim, device.is_gpu)
    phases["step"] += launch.copies(trained)  # the gradients in fp32
    buckets = 0 if stage.spec.loop == "ppo" else launch.bucket_bytes(trained, half, device.is_gpu)
    return MemoryPlan(lines, activations, logits, phases, device.taken, buckets)


def computes_in_half(stage) -> bool:
    """Return whether a stage computes in 16 bits."""
    return bool(stage.arguments.bf16 or stage.arguments.fp16)


def trainer_phases(
    stage, roles: list[Role], gradients: int, device: Device, launch: Launch
) -> tuple[int, int, dict[str, int]]:
    """Return activations, logits, and the memory that each phase of Transformers' loop adds.

    Gradients replace activations in the backward, unless they accumulate: then they exist from the first pass on, and
    FSDP2 shards them after each pass, or after the last (`sums_each_pass`).
    """
    config, role = stage.config, roles[0]
    tokens = micro_batch_tokens(stage.spec, config, stage.replies)
    run = training_pass(stage, role, ceil(tokens / stage.row_length), stage.row_length, device, launch)
    kept = formulas.kept_bytes(role.decoder, run)
    backward = formulas.backward_bytes(role.decoder, run, largest_cast(role, run))
    logits = stage_loss_bytes(stage, role, run)
    whole = launch.gathered(role, run.half, device.is_gpu)
    accumulated = 0
    if tokens < step_tokens(stage.spec, config, stage.replies):
        accumulated = gradients if sums_each_pass(config) else max(gradients, whole.accumulated)
    phases = {
        "loss": kept + logits + accumulated + whole.forward,
        "backward": whole.backward(kept + accumulated, gradients, backward),
    }
    if getattr(stage.arguments, "precompute_ref_log_probs", False):
        phases["reference"] = precomputed_bytes(stage, role, run)
    if config.eval_datasets or config.test_split_size is not None:
        test = replace(run, rows=stage.replies * config.per_device_eval_batch_size)
        phases["eval"] = formulas.inference_bytes(role.decoder, test) + stage_loss_bytes(stage, role, test)
        phases["eval"] += whole.forward
        if rows := min(config.per_device_eval_batch_size, getattr(config, "eval_prompts", 0)):
            prompts = replace(run, rows=rows)
            replies = replace(prompts, length=run.length + config.response_length)
            phases["samples"] = formulas.sampling_bytes(role.decoder, prompts, replies)
    return kept + backward, logits, phases


def stage_loss_bytes(stage, role: Role, run: Pass) -> int:
    """Return the bytes of a stage's logits and loss; a reward model has one logit a row."""
    if stage.spec.makes == "reward model":
        return run.rows * FP32
    arguments, is_own = stage.arguments, not hasattr(stage.arguments, "loss_type")  # pretraining has no such key
    if getattr(arguments, "label_smoothing_factor", 0) or (is_own and arguments.torch_compile):
        return loss_formulas.smoothed_loss_bytes(role.decoder, run)
    has_reference = stage.spec.holds_reference and stage.spec.form == "comparisons"
    if not has_reference and (is_own or has_plain_loss(stage.arguments)):
        return loss_formulas.chunked_loss_bytes(role.decoder, run)
    if tile := fused_head_tile():
        return loss_formulas.fused_head_bytes(role.decoder, run, run.tokens, tile)
    if has_reference and not (stage.config.micro_batches_by_length or stage.arguments.precompute_ref_log_probs):
        return loss_formulas.preference_loss_bytes(role.decoder, run)
    return loss_formulas.loss_bytes(role.decoder, run.tokens)


def precomputed_bytes(stage, role: Role, run: Pass) -> int:
    """Return the bytes of a batch of log-probabilities of the reference that are computed before training."""
    config, arguments = stage.config, stage.arguments
    sizes = [config.per_device_train_batch_size, config.per_device_eval_batch_size]
    tokens = stage.replies * stage.row_length * (arguments.precompute_ref_batch_size or max(sizes))
    limit = max_tokens(config, stage.row_length, stage.replies) or tokens
    batch = replace(run, rows=ceil(min(tokens, limit) / stage.row_length))
    return loss_formulas.reference_bytes(role.decoder, batch)


def ppo_phases(
    stage, roles: list[Role], gradients: int, device: Device, launch: Launch
) -> tuple[int, int, dict[str, int]]:
    """Return activations and logits of a PPO update, and the memory that rollout, scoring and update add.

    Value model and policy are trained one after the other, so only the activations of one are held at a time. Under
    FSDP2 sampling and scoring use whole weights, and training gathers a layer at a time.
    """
    config, length = stage.config, stage.row_length
    policy, value = roles[0], roles[-1]
    tokens, whole_step = micro_batch_tokens(stage.spec, config), step_tokens(stage.spec, config)
    size, most_rows = ceil(tokens / length), whole_step // length
    # prompts may be short, so that more rows fill the tokens
    replies = min(tokens, (most_rows if config.micro_batches_by_length else size) * config.response_length)
    accumulated = gradients if tokens < whole_step else 0
    run = training_pass(stage, policy, size, length, device)
    logits = loss_formulas.policy_loss_bytes(policy.decoder, run, replies)
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    rows = min(batch, config.local_rollout_forward_batch_size)
    rollout = rollout_bytes(stage, roles, replace(run, rows=rows), device, launch)
    half = computes_in_half(stage)
    whole = [gathered_size(role.weights, half) if launch.shares_weights else 0 for role in roles]
    phases = {
        "rollout": whole[0] + rollout,
        "scoring": max(whole) + loss_formulas.scoring_bytes(policy.decoder, run, replies),
    }
    passes = {
        "value": (value, training_pass(stage, value, size, length, device), 0, accumulated),
        "policy": (policy, run, logits, accumulated or formulas.gradient_bytes(launch.stepped(value.held))),
    }
    if config.ptx_coef:
        rows = min(most_rows, ceil(tokens / config.ptx_max_length)) if config.max_tokens_per_micro_batch else size
        ptx = training_pass(stage, policy, rows, config.ptx_max_length, device)
        passes["ptx"] = (policy, ptx, loss_formulas.chunked_loss_bytes(policy.decoder, ptx), gradients)
    activations = 0
    for name, (role, run, loss, before) in passes.items():
        kept = formulas.kept_bytes(role.decoder, run)
        backward = formulas.backward_bytes(role.decoder, run, largest_cast(role, run))
        layers = launch.gathered(role, half, device.is_gpu, together=True)
        phases[f"{name} loss"] = kept + loss + before + layers.forward
        phases[f"{name} backward"] = layers.backward(kept + before, gradients, backward)
        activations = max(activations, kept + backward)
    return activations, logits, phases


def group_phases(
    stage, roles: list[Role], gradients: int, device: Device, launch: Launch
) -> tuple[int, int, dict[str, int]]:
    """Return activations and logits of an update of GRPO or RLOO, and the memory of rollout, scoring and update."""
    config, policy, size = stage.config, roles[0], stage.config.per_device_train_batch_size
    passes = stage.arguments.steps_per_generation
    tokens = micro_batch_tokens(stage.spec, config)
    rows = ceil(tokens / group_length(stage, policy))
    run = replace(training_pass(stage, policy, rows, ceil(tokens / rows), device), padded=True)
    # prompts may be short, so that more rows fill the tokens
    rows = shared_tokens(stage.spec, config) // stage.row_length if config.micro_batches_by_length else size
    replies = min(run.tokens, rows * config.response_length)
    if tile := fused_head_tile():  # without Triton, the logits of prompts are computed too
        logits = loss_formulas.fused_head_bytes(policy.decoder, run, replies if device.is_gpu else run.tokens, tile)
    else:
        logits = loss_formulas.loss_bytes(policy.decoder, replies)
    rows = min(size * passes, config.local_rollout_forward_batch_size)
    kept = formulas.kept_bytes(policy.decoder, run)
    backward = formulas.backward_bytes(policy.decoder, run, largest_cast(policy, run))
    accumulated = gradients if tokens < step_tokens(stage.spec, config) else 0
    phases = {
        "rollout": rollout_bytes(stage, roles, replace(run, rows=rows, length=stage.row_length), device, launch),
        "scoring": loss_formulas.scoring_bytes(policy.decoder, run, replies),
        "loss": kept + logits + accumulated,
        "backward": max(kept + accumulated, gradients) + backward,
    }
    return kept + backward, logits, phases


def group_length(stage, role: Role) -> int:
    """Return the tokens of a sequence in training: a prompt and one or more of its responses (`split_rows`)."""
    config = stage.config
    if config.attn_implementation == "eager" or not config.micro_batches_by_length:
        return stage.row_length
    replies = [config.response_length] * config.num_generations
    longest = split_rows([*range(len(replies))], config.max_prompt_length, replies, role.decoder.hidden)[0]
    return config.max_prompt_length + len(longest) * config.response_length


def training_pass(stage, role: Role, rows: int, length: int, device: Device, launch: Launch = ALONE) -> Pass:
    """Return the forward pass of one of a stage's models in training.

    FSDP2 and DeepSpeed compute everything in 16 bits where a single process uses autocast.
    """
    config, arguments, half = stage.config, stage.arguments, computes_in_half(stage)
    in_half = half and launch.shares_states
    adapter = next((weight.itemsize for weight in role.weights if weight.adapter), 0)
    return Pass(
        rows=rows,
        length=length,
        stream=BF16 if in_half else max(weight.itemsize for weight in role.weights if weight.embedding),
        half=half,
        full=not adapter,
        adapter=min(adapter, BF16) if in_half else adapter,
        dropout=config.lora_dropout > 0,
        padded=stage.spec.form != "text" and rows > 1,  # texts are packed into rows of equal length
        eager=config.attn_implementation == "eager",
        checkpointing=bool(arguments.gradient_checkpointing),
        quantized=quantized_bits(config) is not None,
        on_gpu=device.is_gpu,
    )


def largest_cast(role: Role, run: Pass) -> int:
    """Return the bytes of the largest quantized weight, which its backward unpacks."""
    packed = [weight.count for weight in role.weights if weight.bits]
    return max(packed, default=0) * (BF16 if run.half or run.on_gpu else FP32)
