"""Makes experience from sampled responses: log-probabilities, values, scores and advantages."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from hfkit.models.adapter_inputs import keep_input_dtype
from hfkit.models.micro_batches import call_tokens
from hfkit.rlhf.advantages import advantages_and_returns, explained_variance, kl_per_token, masked_mean, token_rewards
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.batch import Tokens, cut_rows
from hfkit.rlhf.controllers import Controllers
from hfkit.rlhf.forward import Model, autocast, reply_logprobs, reply_values
from hfkit.rlhf.monitor import repetition_share
from hfkit.rlhf.rewards import Scorer, shape_scores
from hfkit.rlhf.roles import Roles
from hfkit.rlhf.sharding import whole_weights


@dataclass
class Experience:
    """A batch of B responses with everything that an update needs; per-token tensors are float32 (B, R).

    Attributes:
        kl: KL estimate of each token by `kl_estimator`, in nats.
        scores: shaped score of each response, (B,).
    """

    tokens: Tokens
    logprobs: torch.Tensor
    kl: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def kl_per_reply(self) -> torch.Tensor:
        """Return the KL estimate summed over the tokens of each response, (B,)."""
        return self.kl.where(self.tokens.mask, 0.0).sum(1)


@dataclass
class ExperienceMaker:
    """Turns sampled responses into experience: runs all models, scores the responses, estimates advantages."""

    args: PPOArguments
    accelerator: Accelerator
    roles: Roles
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    stop_token_ids: list[int]
    controllers: Controllers

    @torch.no_grad()
    def __call__(self, rows: list[dict], replies: list[list[int]]) -> tuple[Experience, dict[str, float]]:
        """Return the experience of a batch, and its metrics over all processes.

        Args:
            rows: of the prompt dataset, with `input_ids`.
            replies: token ids, up to and including the stop token.
        """
        args, device, kl_coef = self.args, self.accelerator.device, self.controllers.kl.coef
        # 1. Log-probabilities of policy and reference, entropies, values
        prompts = [row["input_ids"] for row in rows]
        tokens = Tokens.from_lists(prompts, replies, self.tokenizer.pad_token_id, device)
        logprobs, ref_logprobs, entropies, values = self.run_models(tokens)
        # 2. Scores of whole responses
        ended = torch.tensor([reply[-1] in self.stop_token_ids for reply in replies], device=device)
        score_parts, scores = self.score(rows, replies, ended)
        # 3. Rewards of tokens: the score on the last one, less the KL penalty on each
        kl = kl_per_token(logprobs, ref_logprobs, args.kl_estimator)
        rewards = token_rewards(scores, kl, tokens.mask, kl_coef)
        if args.whiten_rewards:
            rewards = self.whiten(rewards, tokens.mask, shift_mean=False)
        # 4. Advantages and returns
        advantages, returns = advantages_and_returns(rewards, values, tokens.mask, args.gamma, args.lam)
        advantages = self.whiten(advantages, tokens.mask)
        experience = Experience(tokens, logprobs, kl, values, scores, advantages, returns)
        # 5. Metrics
        kl = experience.kl_per_reply()
        per_reply = {
            "objective/kl": kl,
            "objective/scores": score_parts["total"],
            "objective/shaped_scores": scores,
            "objective/rlhf_reward": scores - kl_coef * kl,
            "val/reply_length": tokens.mask.sum(1),
            "val/ended": ended,
            "val/repetition": torch.tensor([repetition_share(reply) for reply in replies], device=device),
        }
        if len(score_parts) > 2:  # the total is a sum of several
            per_reply |= {f"objective/score_{name}": part for name, part in score_parts.items() if name != "total"}
        metrics = {name: float(self.accelerator.gather(part.float()).mean()) for name, part in per_reply.items()}
        all_scores = self.accelerator.gather(score_parts["total"])
        if len(all_scores) > 1:  # the difference makes the deviation of equal scores exactly 0
            metrics["objective/scores_std"] = float((all_scores - all_scores[0]).std(correction=0))
        entropies, all_values, all_returns, mask = (  # of all processes, padded with 0 to the longest response
            self.accelerator.gather(self.accelerator.pad_across_processes(one, dim=1))
            for one in (entropies, values, returns, tokens.mask.long())
        )
        metrics["objective/entropy"] = float(masked_mean(entropies, mask.bool()))
        metrics["val/explained_variance"] = explained_variance(all_values, all_returns, mask.bool())
        return experience, metrics

    def run_models(self, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log-probabilities of policy and reference, entropies of the policy, and values, (B, R) each."""
        args, device = self.args, self.accelerator.device
        logprobs, ref_logprobs, entropies, values = (torch.zeros(tokens.replies.shape, device=device) for _ in range(4))
        policy, reference, value = self.roles.policy.eval(), self.roles.reference, self.roles.value.eval()
        indices = cut_rows(tokens, torch.arange(len(tokens), device=device), args, call_tokens(policy))
        parts = [tokens.select(index) for index in indices]
        cells = [(index, slice(part.replies.shape[1])) for index, part in zip(indices, parts, strict=True)]
        predictions = partial(reply_logprobs, temperature=args.temperature)
        for cell, found in zip(cells, self.passes(policy, predictions, parts), strict=True):
            logprobs[cell], entropies[cell] = found
        for cell, found in zip(cells, self.passes(reference, predictions, parts), strict=True):
            ref_logprobs[cell], _ = found
        for cell, found in zip(cells, self.passes(value, reply_values, parts), strict=True):
            values[cell] = found
        return logprobs, ref_logprobs, entropies, values

    def passes(self, model: Model, measure: Callable[[Model, Tokens], Any], parts: list[Tokens]) -> Iterator[Any]:
        """Yield the result of `measure` for each part; the whole weights of one model at a time are in memory."""
        with whole_weights(model), keep_input_dtype(model, bool(self.args.bf16)):
            for part in parts:
                with autocast(self.args.bf16, self.accelerator.device):
                    found = measure(model, part)
                yield found

    def score(
        self, rows: list[dict], replies: list[list[int]], ended: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return `total` and each part of the score, and the shaped scores, (B,) each; update the normalizer."""
        with autocast(self.args.bf16, self.accelerator.device), whole_weights(self.scorer.reward_model):
            parts = self.scorer([row["input_ids"] for row in rows], replies, rows)
        parts = {name: part.to(self.accelerator.device) for name, part in parts.items()}
        normalizer = self.controllers.normalizer
        if normalizer:
            normalizer.update(self.accelerator.gather(parts["total"]))
        clip, penalty = self.args.reward_clip, self.args.missing_eos_penalty
        return parts, shape_scores(parts["total"], ended, normalizer, clip, penalty)

    def whiten(self, values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        """Scale to variance 1, and shift to mean 0, over the masked tokens of all processes; 0 outside the mask."""
        picked = values[mask].double()
        sums = torch.stack([mask.sum().double(), picked.sum(), (picked**2).sum()])
        count, total, squares = self.accelerator.reduce(sums, "sum")
        mean = total / count
        std = (squares / count - mean**2).clamp(min=0).add(1e-8).sqrt()
        whitened = (values - mean) / std + (0.0 if shift_mean else mean)
        return whitened.where(mask, 0.0).to(values.dtype)
