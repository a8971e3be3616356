"""GRPO and RLOO: TRL's trainers on hfkit's prompts, replies, rewards and reference."""

import torch
import trl
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import EvalLoopOutput

from hfkit.core.compat_online import OwnRollouts, sampled_batch, set_sampled_batch, set_stop_tokens
from hfkit.core.kept_logs import KeepsLogs
from hfkit.models.generation import stop_ids
from hfkit.rlhf.arguments import GRPOArguments, RLOOArguments
from hfkit.rlhf.forward import Model
from hfkit.rlhf.monitor import TrainingMonitor, repetition_share
from hfkit.rlhf.online_metrics import OnlineMetrics
from hfkit.rlhf.policy_evaluation import evaluate_policy
from hfkit.rlhf.rewards import Scorer, shape_scores
from hfkit.rlhf.rollout import Rollouts, policy_engine
from hfkit.rlhf.rollout_log import RolloutLog
from hfkit.training.sharding import reduce_in_float32

COPY = "ref"
"""What TRL calls its copy of an adapter."""


def as_trl_rows(columns: dict[str, list]) -> dict[str, list]:
    """Return rows of encoded prompts as TRL passes them on: `prompt` has the token ids, `row` all columns as given."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {"prompt": columns["input_ids"], "row": rows}


class OnlineTraining(OwnRollouts, KeepsLogs, Trainer):
    """What GRPO and RLOO share: a mixin for TRL's trainers.

    Args:
        model: the policy.
        ref_model: the SFT model, frozen.
        scorer: scores replies.
        train_dataset: rows of `encode_prompts`.
        eval_dataset: more of them, or None.

    Attributes:
        stopped: why training stopped early, or None.
    """

    args: GRPOArguments | RLOOArguments

    def __init__(
        self,
        model: Model,
        ref_model: Model,
        scorer: Scorer,
        args: GRPOArguments | RLOOArguments,
        train_dataset: Dataset,
        eval_dataset: Dataset | None,
        processing_class: PreTrainedTokenizerBase,
    ):
        self.scorer = scorer
        # With a KL term, TRL would load a full model a second time, and add a copy of an adapter to its model, which
        # would land in each checkpoint; RLOOTrainer adds it in any case.
        beta, args.beta = args.beta, 0.0
        super().__init__(
            model=model,
            reward_funcs=self.reward,
            args=args,
            train_dataset=train_dataset.with_transform(as_trl_rows),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
        )
        self.beta = args.beta = beta
        if isinstance(model, PeftModel) and COPY in model.peft_config:
            model.delete_adapter(COPY)
        reduce_in_float32(self.accelerator)
        self.reference = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        self.ref_model = self.reference if beta else None
        self.stop_token_ids = stop_ids(model.generation_config, processing_class)
        set_stop_tokens(self, self.stop_token_ids)
        longest = max(map(len, train_dataset["input_ids"]))
        self.engine = policy_engine(args, self.model, processing_class, [self.model], longest)
        self.rollouts = Rollouts(self.engine, self.model, args, self.stop_token_ids)
        self.rollout_log = RolloutLog(args.output_dir, processing_class)
        self.monitor, self.stopped = TrainingMonitor(args.max_kl), None
        self.add_callback(OnlineMetrics(self))

    # Replies and rewards

    def sample_replies(self, prompts: list[list[int]]) -> list[list[int]]:
        """Sample a reply to each prompt; a signal or a failure of the engine leaves the step as if it had not begun."""
        replies = self.rollouts.sample(prompts)
        self.model.train()
        return replies

    def reward(self, prompts, completion_ids, row, log_metric, **_) -> list[float]:
        """Return the score of each reply, as TRL calls a reward function; log its parts, and what the replies are like.

        Raises:
            HfkitError: a function fails, or does not return one finite number for each reply.
        """
        parts = self.scorer(prompts, completion_ids, row)
        ended = torch.tensor([reply[-1] in self.stop_token_ids for reply in completion_ids])
        scores = shape_scores(parts["total"], ended, None, self.args.reward_clip, self.args.missing_eos_penalty)
        per_reply = {
            "objective/scores": parts["total"],
            "objective/shaped_scores": scores,
            "val/reply_length": torch.tensor([*map(len, completion_ids)]),
            "val/ended": ended,
            "val/repetition": torch.tensor([*map(repetition_share, completion_ids)]),
        }
        if len(parts) > 2:  # the total is a sum of several
            per_reply |= {f"objective/score_{name}": part for name, part in parts.items() if name != "total"}
        for name, values in per_reply.items():
            log_metric(name, float(values.float().mean()))
        self.log_samples(prompts, completion_ids, scores)
        return scores.tolist()

    def log_samples(self, prompts: list[list[int]], replies: list[list[int]], scores: torch.Tensor) -> None:
        """Append samples to `rollouts.jsonl` if they are due at one of the updates that these replies are for."""
        args, first = self.args, self.state.global_step + 1
        updates = max(args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps, 1)
        is_due = args.sample_steps and (first - 1) // args.sample_steps < (first + updates - 1) // args.sample_steps
        if is_due and self.is_world_process_zero():
            self.rollout_log.append(first, prompts, replies, scores)

    # Evaluation

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Return mean reward, KL, entropy and length of replies to the held-out prompts, sampled with one seed."""
        rows = list(dataloader.dataset)
        models = (self.model, self.reference, self.processing_class, self.scorer)
        found = evaluate_policy(*models, rows, self.args, self.stop_token_ids)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.metrics.items()}
        return EvalLoopOutput(None, None, metrics, len(rows))

    # Checkpoints

    def pending_logs(self) -> dict:
        """Return what is not logged yet, what is counted, and what the health signs are taken from."""
        kept = {"passes": sampled_batch(self)[0], "monitor": self.monitor.state_dict(), "stopped": self.stopped}
        return super().pending_logs() | kept

    def set_pending_logs(self, kept: dict) -> None:
        super().set_pending_logs(kept)
        self.monitor.load_state_dict(kept["monitor"])
        set_sampled_batch(self, kept["passes"], None)

    def set_counts(self, kept: dict) -> None:
        super().set_counts(kept)
        self.stopped = kept.get("stopped")


class GRPOTrainer(OnlineTraining, trl.GRPOTrainer):
    """TRL's GRPOTrainer on hfkit's prompts, replies, rewards and reference."""

    samples_logprobs = True


class RLOOTrainer(OnlineTraining, trl.RLOOTrainer):
    """TRL's RLOOTrainer on hfkit's prompts, replies, rewards and reference."""
