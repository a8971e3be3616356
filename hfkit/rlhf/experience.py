"""From sampled replies to what an update learns from: log-probabilities, values, scores, advantages."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from hfkit.rlhf.batch import Tokens, micro_batches
from hfkit.rlhf.config import PPOConfig
from hfkit.rlhf.forward import autocast, reply_logprobs, reply_values
from hfkit.rlhf.health import repetition
from hfkit.rlhf.objective import advantages_and_returns, explained_variance, kl_per_token, masked_mean, token_rewards
from hfkit.rlhf.roles import Roles
from hfkit.rlhf.scores import Scorer, shaped


@dataclass
class Experience:
    """A batch of B replies and all that an update needs of them; per-token tensors are float32 (B, R)."""

    tokens: Tokens
    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class ExperienceMaker:
    """Looks at replies with every role.

    Args:
        stops: token ids that end a reply.
        controllers: `kl`, and `normalizer` where rewards are normalized.
    """

    def __init__(
        self,
        args: PPOConfig,
        accelerator: Accelerator,
        roles: Roles,
        tokenizer,
        scorer: Scorer,
        stops: list[int],
        controllers: dict,
    ):
        self.args, self.accelerator, self.roles, self.tokenizer = args, accelerator, roles, tokenizer
        self.scorer, self.stops, self.controllers = scorer, set(stops), controllers

    @torch.no_grad()
    def __call__(self, rows: list[dict], replies: list[list[int]]) -> tuple[Experience, dict[str, float]]:
        """The experience of a batch, and its metrics over all processes.

        Args:
            rows: of the prompts' data set, with `input_ids`.
            replies: token ids, up to and including the one that ends them.
        """
        args, device = self.args, self.accelerator.device
        prompts = [row["input_ids"] for row in rows]
        tokens = Tokens.of(prompts, replies, self.tokenizer.pad_token_id, device)
        logprobs, ref_logprobs, entropies, values = self.forward(tokens)
        with autocast(args, device):
            parts = self.scorer(prompts, replies, rows)
        parts = {name: part.to(device) for name, part in parts.items()}
        ended = torch.tensor([reply[-1] in self.stops for reply in replies], device=device)
        normalizer = self.controllers.get("normalizer")
        if normalizer:
            normalizer.update(self.accelerator.gather(parts["total"]))
        scores = shaped(parts["total"], ended, normalizer, args.reward_clip, args.missing_eos_penalty)
        kl = kl_per_token(logprobs, ref_logprobs, args.kl_estimator)
        kl_coef = self.controllers["kl"].coef
        rewards = token_rewards(scores, kl, tokens.mask, kl_coef)
        if args.whiten_rewards:
            rewards = self.whiten(rewards, tokens.mask, shift_mean=False)
        advantages, returns = advantages_and_returns(rewards, values, tokens.mask, args.gamma, args.lam)
        advantages = self.whiten(advantages, tokens.mask)
        kl = kl.where(tokens.mask, 0.0).sum(1)
        per_reply = {
            "objective/kl": kl,
            "objective/scores": parts["total"],
            "objective/shaped_scores": scores,
            "objective/rlhf_reward": scores - kl_coef * kl,
            "val/reply_length": tokens.mask.sum(1),
            "val/ended": ended,
            "val/repetition": torch.tensor([repetition(reply) for reply in replies], device=device),
        }
        if len(parts) > 2:  # what each part of the total gave
            per_reply |= {f"objective/score_{name}": part for name, part in parts.items() if name != "total"}
        metrics = {name: float(self.accelerator.gather(part.float()).mean()) for name, part in per_reply.items()}
        entropies, all_values, all_returns, mask = self.gathered(entropies, values, returns, tokens.mask.long())
        metrics["objective/entropy"] = float(masked_mean(entropies, mask.bool()))
        metrics["val/explained_variance"] = explained_variance(all_values, all_returns, mask.bool())
        return Experience(tokens, logprobs, ref_logprobs, values, scores, advantages, returns), metrics

    def forward(self, tokens: Tokens) -> tuple[torch.Tensor, ...]:
        """Log-probabilities of policy and reference, entropies of the policy, and values, (B, R) each."""
        args, device = self.args, self.accelerator.device
        logprobs, ref_logprobs, entropies, values = (torch.zeros(tokens.replies.shape, device=device) for _ in range(4))
        self.roles.policy.eval(), self.roles.value.eval()
        everything = torch.arange(len(tokens), device=device)
        for index in micro_batches(tokens, everything, args.per_device_train_batch_size):
            part = tokens.rows(index)
            here = (index, slice(part.replies.shape[1]))
            with autocast(args, device):
                logprobs[here], entropies[here] = reply_logprobs(self.roles.policy, part, args.temperature)
                ref_logprobs[here], _ = reply_logprobs(self.roles.reference, part, args.temperature)
                values[here] = reply_values(self.roles.value, part)
        return logprobs, ref_logprobs, entropies, values

    def gathered(self, *per_token: torch.Tensor) -> list[torch.Tensor]:
        """Per-token tensors of all processes, with 0 where a process's replies are shorter than another's."""
        return [self.accelerator.gather(self.accelerator.pad_across_processes(one, dim=1)) for one in per_token]

    def whiten(self, values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        """Mean 0 (if shifted) and variance 1 over the masked tokens of all processes; 0 outside the mask."""
        picked = values[mask].double()
        sums = torch.stack([mask.sum().double(), picked.sum(), (picked**2).sum()])
        count, total, squares = self.accelerator.reduce(sums, "sum")
        mean = total / count
        std = (squares / count - mean**2).clamp(min=0).add(1e-8).sqrt()
        whitened = (values - mean) / std + (0.0 if shift_mean else mean)
        return whitened.where(mask, 0.0).to(values.dtype)
