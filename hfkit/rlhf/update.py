"""PPO's update: optimizer steps on policy and value model over a batch of experience."""

import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from hfkit.models.adapter_inputs import keep_input_dtype
from hfkit.models.micro_batches import call_tokens
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.batch import cut_rows
from hfkit.rlhf.experience import Experience
from hfkit.rlhf.forward import autocast, eval_with_checkpointing, reply_logprobs, reply_values
from hfkit.rlhf.losses import policy_loss, value_loss
from hfkit.rlhf.ptx import PTX
from hfkit.rlhf.roles import Roles
from hfkit.rlhf.sharding import whole_weights
from hfkit.training.sharding import gathered, is_sharded

BUCKET = 1 << 25
"""Gradient elements in one message between processes; two copies of a message are in memory while it is sent."""


class Updater:
    """`num_ppo_epochs` passes over the batch, in `num_mini_batches` optimizer steps each.

    The loss of a mini-batch is the mean over its tokens in all processes, however it is cut into micro-batches. Rows of
    similar length share a micro-batch, without the columns that are padding in all of them.
    """

    def __init__(
        self, args: PPOArguments, accelerator: Accelerator, roles: Roles, optimizer: Optimizer, ptx: PTX | None
    ):
        self.args, self.accelerator, self.roles = args, accelerator, roles
        self.optimizer, self.ptx = optimizer, ptx
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.is_sharded = is_sharded(roles.policy)

    def __call__(self, experience: Experience, policy_learns: bool = True) -> dict[str, float]:
        """Train on a batch, only the value model unless `policy_learns`; return its optimizer steps' mean metrics."""
        policy, value, bf16 = self.roles.policy, self.roles.value, bool(self.args.bf16)
        for model in (policy, value):
            eval_with_checkpointing(model)
        steps = []
        with keep_input_dtype(policy, bf16), keep_input_dtype(value, bf16):
            for _ in range(self.args.num_ppo_epochs):
                order = torch.randperm(len(experience.tokens)).to(self.accelerator.device)
                for index in order.split(self.args.local_mini_batch_size):
                    steps.append(self.step(experience, index, policy_learns))
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def step(self, experience: Experience, index: torch.Tensor, policy_learns: bool) -> dict[str, float]:
        """Take one optimizer step on the rows of a mini-batch; return its metrics."""
        tokens, device = experience.tokens, self.accelerator.device
        count = self.accelerator.reduce(tokens.mask[index].sum(), "sum")
        totals: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        with whole_weights(None if policy_learns else self.roles.policy):
            for part in cut_rows(tokens, index, self.args, call_tokens(self.roles.policy), self.is_sharded):
                # one model at a time, so that only its activations are in memory
                for losses, learns in ((self.value_losses, True), (self.policy_losses, policy_learns)):
                    with autocast(self.args.bf16, device), torch.set_grad_enabled(learns):
                        loss, sums = losses(experience, part)
                    if learns:
                        (loss / count).backward()
                    for name, value in sums.items():
                        totals[name] += value.detach()
        means = self.accelerator.reduce(torch.stack([*totals.values()]), "sum") / count
        metrics = dict(zip(totals, means.tolist(), strict=True))
        if self.ptx and policy_learns:
            metrics["loss/ptx"] = self.ptx.backward(self.roles.policy, len(index), self.is_sharded)
        return metrics | {"policy/grad_norm": self.optimizer_step()}

    def policy_losses(
        self, experience: Experience, index: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the policy's loss on a micro-batch and its metrics, each summed over the tokens."""
        args, tokens = self.args, experience.tokens.select(index)
        cells = (index, slice(tokens.replies.shape[1]))
        old = experience.logprobs[cells]
        logprobs, entropies = reply_logprobs(self.roles.policy, tokens, args.temperature, bool(args.entropy_coef))
        surrogate, clipped = policy_loss(logprobs, old, experience.advantages[cells], args.cliprange)
        log_ratio = logprobs - old
        sums = {
            "loss/policy_avg": surrogate,
            "policy/entropy_avg": entropies,
            "policy/approxkl_avg": log_ratio.exp() - 1 - log_ratio,
            "policy/clipfrac_avg": clipped.float(),
            "val/ratio": log_ratio.exp(),
        }
        sums = {name: value.where(tokens.mask, 0.0).sum() for name, value in sums.items()}
        return sums["loss/policy_avg"] - args.entropy_coef * sums["policy/entropy_avg"], sums

    def value_losses(self, experience: Experience, index: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the value model's loss on a micro-batch and its metrics, each summed over the tokens."""
        args, tokens = self.args, experience.tokens.select(index)
        cells = (index, slice(tokens.replies.shape[1]))
        values = reply_values(self.roles.value, tokens)
        error, clipped = value_loss(values, experience.values[cells], experience.returns[cells], args.cliprange_value)
        sums = {"loss/value_avg": error, "val/clipfrac_avg": clipped.float()}
        sums = {name: value.where(tokens.mask, 0.0).sum() for name, value in sums.items()}
        return args.vf_coef * sums["loss/value_avg"], sums

    def optimizer_step(self) -> float:
        """Sum the gradients over processes, clip them to `max_grad_norm`, and step; return their norm before the clip.

        As in `Trainer`, a `max_grad_norm` of 0 clips nothing.
        Parameters without a gradient (the policy's during value warmup) are skipped: no weight decay, no step in Adam's
        moments. Gradients that are not finite are dropped, so the weights do not change.
        """
        if self.accelerator.num_processes > 1 and not self.is_sharded:
            self.sum_gradients()
        total = torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm or math.inf)
        norm = float(gathered(total, self.accelerator.device))
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def sum_gradients(self) -> None:
        """Sum the gradients of all processes, many in one message: each message has a fixed cost, whatever its size.

        A process adds zeros for a gradient that it lacks and another has (of an expert that got none of its tokens); a
        parameter without a gradient in any process stays without.
        """
        has_gradient = torch.tensor([p.grad is not None for p in self.trained], device=self.accelerator.device)
        counts = self.accelerator.reduce(has_gradient.long(), "sum").tolist()
        gradients = []
        for parameter, count in zip(self.trained, counts, strict=True):
            if count:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for bucket in gradient_buckets(gradients):
            parts = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in bucket]), "sum")
            for gradient, part in zip(bucket, parts.split([*map(torch.numel, bucket)]), strict=True):
                gradient.copy_(part.view_as(gradient))


def gradient_buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield the tensors in groups of one dtype and at most BUCKET elements, unless a single tensor has more."""
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in sorted(tensors, key=lambda tensor: str(tensor.dtype)):  # stable: the same order in each process
        if bucket and (size + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
