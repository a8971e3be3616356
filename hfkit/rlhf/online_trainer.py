"""GRPO and RLOO: TRL's trainers with hfkit's prompts, rollout engines, rewards and reference."""

import time
from typing import Any, cast

import torch
import trl
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput

from hfkit.core.compat_online import prepare_reference, sampled_batch, set_sampled_batch, set_stop_tokens
from hfkit.models.dropout import turn_off_dropout
from hfkit.models.engine_errors import EngineError
from hfkit.models.generation import stop_ids
from hfkit.rlhf.arguments import GRPOArguments, RLOOArguments
from hfkit.rlhf.forward import Model, autocast
from hfkit.rlhf.monitor import TrainingMonitor, repetition_share
from hfkit.rlhf.online_batches import OnlineBatches
from hfkit.rlhf.online_metrics import OnlineMetrics
from hfkit.rlhf.policy_evaluation import evaluate_policy
from hfkit.rlhf.rewards import Scorer, shape_scores
from hfkit.rlhf.rollout import Rollouts, policy_engine
from hfkit.rlhf.rollout_log import RolloutLog
from hfkit.rlhf.shared_prompts import prompt_sharing_width
from hfkit.training.interruption import agree_on_signal, leave_step
from hfkit.training.sharding import reduce_in_float32

REFERENCE_ADAPTER = "ref"
"""The name of the copy of an adapter that TRL adds to the policy."""


def as_trl_rows(columns: dict[str, list]) -> dict[str, list]:
    """Return rows of `encode_prompts` as TRL's trainers take them: `prompt` has token ids, `row` all columns."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {"prompt": columns["input_ids"], "row": rows}


class OnlineTraining(OnlineBatches):
    """A mixin for TRL's GRPOTrainer and RLOOTrainer: samples with hfkit's engines, and scores with its rewards.

    Args:
        model: the policy, with or without an adapter.
        ref_model: the frozen reference, a separate model; TRL's `beta` weighs the KL to it.
        scorer: scores responses.
        train_dataset: rows of `encode_prompts`.
        eval_dataset: held-out rows of `encode_prompts`, or None.
        processing_class: the tokenizer; it pads on the left.

    Attributes:
        stopped: why training stopped early, or None.
        kl_in_loss: whether TRL measures the KL in the loss, rather than when it samples.
        of_replies: metrics of the responses that updates learn from.
        boundary: what `sampled_batch` returned when the current step began, or at the last checkpoint.
    """

    processing_class: PreTrainedTokenizerBase
    beta: float
    ref_model: Any

    kl_in_loss = False

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
        # With a beta, TRL would load a full model again, or copy the adapter within the policy, and so into each
        # checkpoint. RLOOTrainer copies it at a beta of 0 too.
        beta, args.beta = args.beta, 0.0
        options: dict[str, Any] = {"reward_funcs": self.reward}  # no argument of Trainer, whose types are checked here
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset.with_transform(as_trl_rows),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **options,
        )
        self.beta = args.beta = beta
        if isinstance(model, PeftModel) and REFERENCE_ADAPTER in model.peft_config:
            model.delete_adapter(REFERENCE_ADAPTER)
        reduce_in_float32(self.accelerator)
        self.policy = cast(Model, self.model)
        for module in self.policy.modules():
            turn_off_dropout(module)
        prepare_reference(ref_model, args.temperature, getattr(args, "cast_lm_head_to_fp32", False))
        self.reference = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        self.ref_model = self.reference if beta else None
        self.stop_token_ids = stop_ids(model.generation_config, processing_class)
        set_stop_tokens(self, self.stop_token_ids)
        longest = max(train_dataset["input_ids"], key=len)
        self.sharing_width = None
        if args.micro_batches_by_length:
            self.sharing_width = prompt_sharing_width(self.policy, longest, args.response_length)
        self.engine = policy_engine(args, self.policy, processing_class, [self.policy], len(longest))
        self.rollouts = Rollouts(self.engine, self.policy, args, self.stop_token_ids)
        self.rollout_log = RolloutLog(str(args.output_dir), processing_class)
        masks = args.mask_truncated_completions
        self.monitor = TrainingMonitor(args.max_kl, penalty="beta", bonus="beta", masks_truncated=masks)
        self.learned_from, self.waiting = [], []
        self.stopped: str | None = None
        self.of_replies: dict[str, float] = {}
        self.boundary: tuple[int, Any] | None = None
        self.started = time.time()
        self.add_callback(OnlineMetrics(self))

    # Responses and rewards

    def sample_replies(self, prompts: list[list[int]]) -> list[list[int]]:
        """Sample a response to each prompt; return token ids.

        Raises:
            EngineError: in all processes, if the engine of one of them failed; the last step has a checkpoint then.
            KeyboardInterrupt, Interrupted: the same for a signal.
        """
        replies, failures = [], []
        try:
            replies = self.rollouts.sample(prompts)
        except EngineError as error:
            failures.append(error)
        self.policy.train()
        if failures or agree_on_signal():
            leave_step(self, *failures)
        return replies

    @torch.no_grad()
    def reward(self, prompts, completion_ids, row, log_metric, **_) -> list[float]:
        """Return the shaped score of each response; log mean scores, length, ends and repetition of the responses.

        TRL calls it as one of its reward functions, with token ids.

        Args:
            row: the dataset's columns of each prompt.
            log_metric: TRL's function that logs a metric of this process; TRL averages over processes.

        Raises:
            HfkitError: a function fails, or does not return one finite number for each response.
        """
        with autocast(self.args.bf16, self.accelerator.device):
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
        if len(parts) > 2:  # a single part is the total, up to its weight
            per_reply |= {f"objective/score_{name}": part for name, part in parts.items() if name != "total"}
        for name, values in per_reply.items():
            log_metric(name, float(values.float().mean()))
        self.log_samples(prompts, completion_ids, scores)
        return scores.tolist()

    def log_samples(self, prompts: list[list[int]], replies: list[list[int]], scores: torch.Tensor) -> None:
        """Append samples to `rollouts.jsonl` if they are due at one of the updates that learn from these responses."""
        every, before = self.args.sample_steps, self.state.global_step
        updates = max(self.passes_per_batch // self.args.gradient_accumulation_steps, 1)
        if every and before // every < (before + updates) // every and self.is_world_process_zero():
            self.rollout_log.append(before + 1, prompts, replies, scores)

    # Evaluation

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Return the metrics of `evaluate_policy` on the held-out prompts, one response to each."""
        models, tokenizer, rows = (self.policy, self.reference), self.processing_class, list(dataloader.dataset)
        found = evaluate_policy(*models, tokenizer, self.scorer, rows, self.args, self.stop_token_ids)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.metrics.items()}
        return EvalLoopOutput(None, None, metrics, len(rows))  # type: ignore[arg-type]  # as Trainer without predictions

    # Checkpoints

    def pending_logs(self) -> dict:
        """Return what is not logged yet, what is counted, and the state of the monitor; set `boundary`."""
        self.boundary = sampled_batch(self)
        signs = {"monitor": self.monitor.state_dict(), "of_replies": dict(self.of_replies), "stopped": self.stopped}
        return super().pending_logs() | {"passes": self.boundary[0], **signs}

    def set_pending_logs(self, kept: dict) -> None:
        """Restore what `pending_logs` returned, also within the step that began when it was called."""
        super().set_pending_logs(kept)
        self.monitor.load_state_dict(kept["monitor"])
        self.of_replies = dict(kept["of_replies"])
        batches = self.boundary[1] if self.boundary and self.boundary[0] == kept["passes"] else None
        set_sampled_batch(self, kept["passes"], batches)

    def set_counts(self, kept: dict) -> None:
        """Restore what was counted since the first step, and why training stopped."""
        super().set_counts(kept)
        self.stopped = kept.get("stopped")


class GRPOTrainer(OnlineTraining, trl.GRPOTrainer):
    """TRL's GRPOTrainer with hfkit's prompts, rollout engines, rewards and reference; see `OnlineTraining`."""

    returns_logprobs = kl_in_loss = True


class RLOOTrainer(OnlineTraining, trl.RLOOTrainer):
    """TRL's RLOOTrainer with hfkit's prompts, rollout engines, rewards and reference; see `OnlineTraining`."""
