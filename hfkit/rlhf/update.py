"""The update: passes over a batch of experience in optimizer steps on policy and value model."""

import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from accelerate import Accelerator

from hfkit.rlhf.batch import micro_batches
from hfkit.rlhf.config import PPOConfig
from hfkit.rlhf.experience import Experience
from hfkit.rlhf.forward import autocast, reply_logprobs, reply_values, train_without_noise
from hfkit.rlhf.objective import policy_loss, value_loss
from hfkit.rlhf.ptx import PTX
from hfkit.rlhf.roles import Roles

BUCKET = 1 << 25
"""Numbers of gradients in one message between processes: it lies in memory twice while it is under way."""


class Updater:
    """`num_ppo_epochs` passes over the batch, in `num_mini_batches` optimizer steps each.

    A mini-batch's loss is the mean over its tokens in all processes, however it is cut into micro-batches: rows
    of like length go together, without the columns that are padding in all of them.

    Args:
        optimizer: of the trained weights of policy and value model.
        ptx: the language modelling loss beside PPO's, if there is one.
    """

    def __init__(self, args: PPOConfig, accelerator: Accelerator, roles: Roles, optimizer, ptx: PTX | None):
        self.args, self.accelerator, self.roles = args, accelerator, roles
        self.optimizer, self.ptx = optimizer, ptx
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, experience: Experience, policy_learns: bool = True) -> dict[str, float]:
        """Trains on a batch; the mean metrics of its optimizer steps.

        Args:
            policy_learns: False while the value model is warmed up alone.
        """
        for model in (self.roles.policy, self.roles.value):
            train_without_noise(model)
        steps = []
        for _ in range(self.args.num_ppo_epochs):
            order = torch.randperm(len(experience.tokens)).to(self.accelerator.device)
            for index in order.split(self.args.local_mini_batch_size):
                steps.append(self.step(experience, index, policy_learns))
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def step(self, experience: Experience, index: torch.Tensor, policy_learns: bool) -> dict[str, float]:
        """One optimizer step on the rows of a mini-batch."""
        tokens, device = experience.tokens, self.accelerator.device
        count = self.summed(tokens.mask[index].sum())
        totals = defaultdict(lambda: torch.zeros((), device=device))
        parts = micro_batches(tokens, index, self.args.per_device_train_batch_size)
        for part in parts:
            # one after the other, so that the activations of one model at a time are held
            for losses, learns in ((self.value_losses, True), (self.policy_losses, policy_learns)):
                with autocast(self.args, device), torch.set_grad_enabled(learns):
                    loss, sums = losses(experience, part)
                if learns:
                    (loss / count).backward()
                for name, value in sums.items():
                    totals[name] += value.detach()
        means = self.summed(torch.stack([*totals.values()])) / count
        metrics = dict(zip(totals, means.tolist(), strict=True))
        if self.ptx and policy_learns:
            metrics["loss/ptx"] = self.ptx.backward(self.roles.policy, len(parts))
        return metrics | {"policy/grad_norm": self.optimizer_step()}

    def policy_losses(
        self, experience: Experience, index: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Policy's loss on a micro-batch and what is logged of it, each summed over its tokens."""
        args, tokens = self.args, experience.tokens.rows(index)
        here = (index, slice(tokens.replies.shape[1]))
        old = experience.logprobs[here]
        logprobs, entropies = reply_logprobs(self.roles.policy, tokens, args.temperature, bool(args.entropy_coef))
        surrogate, clipped = policy_loss(logprobs, old, experience.advantages[here], args.cliprange)
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
        """Value model's loss on a micro-batch and what is logged of it, each summed over its tokens."""
        args, tokens = self.args, experience.tokens.rows(index)
        here = (index, slice(tokens.replies.shape[1]))
        values = reply_values(self.roles.value, tokens)
        error, clipped = value_loss(values, experience.values[here], experience.returns[here], args.cliprange_value)
        sums = {"loss/value_avg": error, "val/clipfrac_avg": clipped.float()}
        sums = {name: value.where(tokens.mask, 0.0).sum() for name, value in sums.items()}
        return args.vf_coef * sums["loss/value_avg"], sums

    def optimizer_step(self) -> float:
        """Sums the gradients of all processes, clips them to `max_grad_norm`, and steps; their norm before the clip.

        What has no gradient, as the policy while the value model is warmed up, is left alone: no weight decay, and no
        count in Adam's moments. Gradients that are not numbers are thrown away, so the weights stay what they were.
        """
        if self.accelerator.num_processes > 1:
            self.sum_gradients()
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm))
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def sum_gradients(self) -> None:
        """Sums the gradients of all processes, many in one message: each has a price of its own, whatever its size.

        A process without a gradient that another one has, as of an expert that none of its tokens went to, has zeros;
        what has a gradient nowhere stays without.
        """
        here = torch.tensor([parameter.grad is not None for parameter in self.trained], device=self.accelerator.device)
        anywhere = self.summed(here.long()).tolist()
        learnt = [parameter for parameter, count in zip(self.trained, anywhere, strict=True) if count]
        for parameter in learnt:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in buckets([parameter.grad for parameter in learnt]):
            parts = self.summed(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, part in zip(bucket, parts.split([*map(torch.numel, bucket)]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over processes."""
        return self.accelerator.reduce(tensor, "sum")


def buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors in their order, those of one dtype together, as many as make up BUCKET."""
    bucket, size = [], 0
    for tensor in sorted(tensors, key=lambda tensor: str(tensor.dtype)):  # the order of equals is kept
        if bucket and (size + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
