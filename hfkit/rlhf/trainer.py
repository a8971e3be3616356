"""PPO for language models: trl's PPOTrainer with a loop of our own.

trl 1.12 is the last release with a PPOTrainer. Its class, its config and its constructor stay the interface; `train`
and `evaluate` are written afresh, of parts that each stand alone: rollout, scores, objective, controllers, checkpoint.
All of trl's PPO imports are in this file.
"""

import copy
import json
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, get_scheduler
from transformers.trainer_utils import rotate_checkpoints
from trl.experimental.ppo import PPOConfig as TrlPPOConfig
from trl.experimental.ppo import PPOTrainer as TrlPPOTrainer

from hfkit.console import warn
from hfkit.evaluation.generation import generate_replies, likelihoods, reply_kl
from hfkit.forms import IGNORE
from hfkit.rlhf import checkpoint
from hfkit.rlhf.batch import Tokens, by_length, pad
from hfkit.rlhf.controllers import KLController, RewardNormalizer
from hfkit.rlhf.forward import reply_logprobs, reply_values
from hfkit.rlhf.guards import refuse
from hfkit.rlhf.health import Watch, repetition
from hfkit.rlhf.objective import (
    advantages_and_returns,
    explained_variance,
    kl_per_token,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
)
from hfkit.rlhf.prompts import Shuffled
from hfkit.rlhf.rollout import Engine, GenerateEngine
from hfkit.rlhf.scores import Scorer, shaped
from hfkit.scoring import RewardModel

__all__ = ["PPOConfig", "PPOTrainer"]


@dataclass
class PPOConfig(TrlPPOConfig):
    """trl's PPOConfig with the fields that its loop has no use for."""

    value_learning_rate: float | None = field(default=None, metadata={"help": "of the value model"})
    value_warmup_steps: int = field(default=0, metadata={"help": "updates that train the value model alone"})
    entropy_coef: float = field(default=0.0, metadata={"help": "weight of the entropy bonus"})
    kl_target: float | None = field(default=None, metadata={"help": "nats per reply that kl_coef is adapted to"})
    kl_horizon: int = field(default=10_000, metadata={"help": "episodes over which kl_coef adapts"})
    max_kl: float = field(default=20.0, metadata={"help": "nats per reply past which training stops"})
    normalize_rewards: bool = field(default=False, metadata={"help": "by running mean and std"})
    reward_clip: float | None = field(default=None, metadata={"help": "scores are clipped to +- this"})
    ptx_coef: float = field(default=0.0, metadata={"help": "weight of the language modelling loss"})
    sample_steps: int | None = field(default=None, metadata={"help": "updates between two tables of replies"})


@dataclass
class Experience:
    """A batch of replies and all that an update needs of them; per-token tensors are float32 (B, R)."""

    tokens: Tokens
    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor
    advantages: torch.Tensor | None = None
    returns: torch.Tensor | None = None


class PPOTrainer(TrlPPOTrainer):
    """trl's PPOTrainer, same arguments, and these more.

    Args:
        scorer: what replies are worth; default is the reward model on the policy's token ids.
        normalizer: of the rewards, with `normalize_rewards`.
        ptx_rows: rows of `input_ids` and `labels` for the language modelling loss, with `ptx_coef`.
        engine: samples the replies; default is Transformers' generate.

    Raises:
        HfkitError: fewer prompts than a batch; pad token equal to EOS; a policy or value model with nothing to
            train, or quantized without an adapter; one model in two roles.
    """

    def __init__(
        self,
        args: PPOConfig,
        processing_class,
        model: PreTrainedModel,
        ref_model: PreTrainedModel,
        reward_model: PreTrainedModel | None,
        train_dataset,
        value_model: PreTrainedModel,
        scorer: Scorer | None = None,
        normalizer: RewardNormalizer | None = None,
        ptx_rows=None,
        engine: Engine | None = None,
        **kwargs,
    ):
        refuse(args, processing_class, model, reward_model, train_dataset, value_model)
        args.stop_token = "eos"
        own_generation_config = copy.deepcopy(model.generation_config)
        if args.gradient_checkpointing:
            for trained in (model, value_model):
                trained.gradient_checkpointing_enable({"use_reentrant": False})
                trained.enable_input_require_grads()  # else nothing needs a gradient at a frozen base's first layer
        super().__init__(
            args,
            processing_class,
            model,
            ref_model,
            reward_model if reward_model is not None else torch.nn.Module(),
            train_dataset,
            value_model,
            **kwargs,
        )
        # trl sets one stop token on the policy and saves it; the model keeps those that it had.
        set_generation_config(model, own_generation_config)
        # DistributedDataParallel hides generate and wants one forward; gradients are summed in `step` instead.
        self.model = self.accelerator.unwrap_model(self.model)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.stops = stop_ids(own_generation_config, processing_class)
        self.scorer = scorer or Scorer(processing_class, RewardModel(reward_model, processing_class))
        self.controllers = {
            "kl": KLController(args.kl_coef, args.kl_target, args.kl_horizon),
            "watch": Watch(args.max_kl),
        }
        if args.normalize_rewards:
            self.controllers["normalizer"] = normalizer or RewardNormalizer()
        self.prompts = Shuffled(len(train_dataset), args.seed)
        self.ptx_rows = ptx_rows
        self.ptx_order = Shuffled(len(ptx_rows), args.seed) if ptx_rows is not None else None
        self.engine = engine or GenerateEngine(
            model,
            processing_class,
            self.stops,
            args.response_length,
            args.temperature,
            args.local_rollout_forward_batch_size,
        )
        self.stopped: str | None = None
        self.seconds: dict[str, float] = defaultdict(float)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """One optimizer; the value model's weights are a group with a learning rate of their own."""
        args = self.args
        if self.optimizer is None:
            cls, options = self.get_optimizer_cls_and_kwargs(args, self.model)
            rates = {self.policy_model: args.learning_rate, self.value_model: args.value_learning_rate}
            groups = [
                {
                    "params": [p for p in model.parameters() if p.requires_grad],
                    "lr": args.learning_rate if rate is None else rate,
                    "weight_decay": args.weight_decay,
                }
                for model, rate in rates.items()
            ]
            self.optimizer = cls(groups, **options)
        if self.lr_scheduler is None:
            warmup = args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = get_scheduler(args.lr_scheduler_type, self.optimizer, warmup, num_training_steps)

    # The loop

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Rollout, scores, update, until `max_steps` updates or a sign to stop; `stopped` says why it ended early.

        Args:
            resume_from_checkpoint: a folder that `save_checkpoint` wrote.
        """
        self.begin(resume_from_checkpoint)
        while self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
            rows = self.next_rows()
            with self.timed("rollout"):
                replies = self.engine.sample([row["input_ids"] for row in rows])
            with self.timed("scoring"):
                experience, metrics = self.experience(rows, replies)
            with self.timed("update"):
                metrics |= self.update(experience)
            self.end_step(metrics, rows, replies, experience)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            checkpoint.load_weights(Path(self.state.best_model_checkpoint), self.roles)
        self.policy_model.eval()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    @property
    def roles(self) -> dict[str, PreTrainedModel]:
        """The models that are trained."""
        return {"policy": self.policy_model, "value": self.value_model}

    def begin(self, resume_from_checkpoint: str | None) -> None:
        """The trainer's state: that of a new run, or of the checkpoint."""
        args, state = self.args, self.state
        state.max_steps = args.max_steps if args.max_steps > 0 else args.num_total_batches
        state.num_train_epochs = state.max_steps * args.batch_size / self.train_dataset_len
        for name in ("logging_steps", "eval_steps", "save_steps"):
            steps = getattr(args, name) or 0
            setattr(state, name, max(int(state.max_steps * steps), 1) if 0 < steps < 1 else int(steps))
        state.global_step = state.episode = 0
        if resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
            saved = type(state).load_from_json(str(folder / "trainer_state.json"))
            for name in ("global_step", "episode", "epoch", "log_history", "best_metric", "best_model_checkpoint"):
                setattr(state, name, getattr(saved, name))
            state.best_global_step = saved.best_global_step
            checkpoint.load_weights(folder, self.roles)
            checkpoint.load_progress(folder, self.optimizer, self.lr_scheduler, self.controllers)
            checkpoint.load_random_state(folder, args.process_index)
        # each mini-batch takes as many rows as it has replies
        self.ptx_taken = state.global_step * args.num_ppo_epochs * args.batch_size
        self.logged: list[dict[str, float]] = []
        self.control = self.callback_handler.on_train_begin(args, state, self.control)

    def next_rows(self) -> list[dict]:
        """This process's prompts of the next update."""
        args = self.args
        start = self.state.global_step * args.batch_size + args.process_index * args.local_batch_size
        return [self.train_dataset[place] for place in self.prompts.take(start, args.local_batch_size)]

    @contextmanager
    def timed(self, phase: str):
        """Adds to the seconds of a phase."""
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started

    # Experience

    @torch.no_grad()
    def experience(self, rows: list[dict], replies: list[list[int]]) -> tuple[Experience, dict[str, float]]:
        """Log-probabilities, values, scores and advantages of sampled replies, and the metrics of the batch."""
        args, device = self.args, self.accelerator.device
        prompts = [row["input_ids"] for row in rows]
        tokens = Tokens.of(prompts, replies, self.processing_class.pad_token_id, device)
        shape = tokens.replies.shape
        logprobs, ref_logprobs, entropies, values = (torch.zeros(shape, device=device) for _ in range(4))
        self.model.eval()
        for index in by_length(
            tokens.lengths, torch.arange(len(tokens), device=device), args.per_device_train_batch_size
        ):
            part = tokens.rows(index)
            end = part.replies.shape[1]
            with self.autocast():
                logprobs[index, :end], entropies[index, :end] = reply_logprobs(
                    self.policy_model, part, args.temperature
                )
                ref_logprobs[index, :end], _ = reply_logprobs(self.ref_model, part, args.temperature)
                values[index, :end] = reply_values(self.value_model, part)
        with self.autocast():
            parts = self.scorer(prompts, replies, rows)
        parts = {name: part.to(device) for name, part in parts.items()}
        ended = torch.tensor([reply[-1] in self.stops for reply in replies], device=device)
        normalizer = self.controllers.get("normalizer")
        if normalizer:
            normalizer.update(self.accelerator.gather(parts["total"]))
        scores = shaped(parts["total"], ended, normalizer, args.reward_clip, args.missing_eos_penalty)
        experience = Experience(tokens, logprobs, ref_logprobs, values, scores)
        kl = kl_per_token(logprobs, ref_logprobs, args.kl_estimator)
        rewards = token_rewards(scores, kl, tokens.mask, self.controllers["kl"].coef)
        if args.whiten_rewards:
            rewards = self.whiten(rewards, tokens.mask, shift_mean=False)
        advantages, experience.returns = advantages_and_returns(rewards, values, tokens.mask, args.gamma, args.lam)
        experience.advantages = self.whiten(advantages, tokens.mask)
        reply_kl = kl.where(tokens.mask, 0.0).sum(1)
        mean = {
            "objective/kl": reply_kl,
            "objective/scores": parts["total"],
            "objective/shaped_scores": scores,
            "objective/rlhf_reward": scores - self.controllers["kl"].coef * reply_kl,
            "val/reply_length": tokens.mask.sum(1).float(),
            "val/ended": ended.float(),
            "val/repetition": torch.tensor([repetition(reply) for reply in replies], device=device),
            **{f"objective/score_{name}": part for name, part in parts.items() if len(parts) > 2 and name != "total"},
        }
        metrics = {name: float(self.accelerator.gather(part.float()).mean()) for name, part in mean.items()}
        metrics["objective/entropy"] = float(self.accelerator.gather(masked_mean(entropies, tokens.mask)).mean())
        metrics["val/explained_variance"] = explained_variance(values, experience.returns, tokens.mask)
        return experience, metrics

    def whiten(self, values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        """Mean 0 (if shifted) and variance 1 over the masked tokens of all processes; 0 outside the mask."""
        picked = values[mask].double()
        count, total, squares = self.summed(torch.stack([mask.sum().double(), picked.sum(), (picked**2).sum()]))
        mean = total / count
        std = (squares / count - mean**2).clamp(min=0).add(1e-8).sqrt()
        whitened = (values - mean) / std + (0.0 if shift_mean else mean)
        return whitened.where(mask, 0.0).to(values.dtype)

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over processes."""
        return self.accelerator.reduce(tensor, "sum")

    def autocast(self):
        """bf16 where it was asked for; the accelerator that trl makes never hears of it."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.args.bf16)

    # Update

    def update(self, experience: Experience) -> dict[str, float]:
        """`num_ppo_epochs` passes over the batch in `num_mini_batches` optimizer steps each; their mean metrics."""
        args = self.args
        self.model.train()
        steps: list[dict[str, float]] = []
        for _ in range(args.num_ppo_epochs):
            order = torch.randperm(len(experience.tokens)).to(self.accelerator.device)
            for index in order.split(args.local_mini_batch_size):
                steps.append(self.step(experience, index))
        self.lr_scheduler.step()
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def step(self, experience: Experience, index: torch.Tensor) -> dict[str, float]:
        """One optimizer step on a mini-batch: its loss is the mean over its tokens, however it is cut up."""
        args, tokens = self.args, experience.tokens
        count = self.summed(tokens.mask[index].sum())
        totals: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.accelerator.device))
        micro_batches = by_length(tokens.lengths, index, args.per_device_train_batch_size)
        for part in micro_batches:
            with self.autocast():
                loss, sums = self.losses(experience, part)
            (loss / count).backward()
            for name, value in sums.items():
                totals[name] += value.detach()
        metrics = {name: float(self.summed(value) / count) for name, value in totals.items()}
        if self.ptx_rows is not None:
            metrics["loss/ptx"] = self.ptx_backward(len(micro_batches))
        self.optimizer_step()
        return metrics | {"policy/grad_norm": self.grad_norm}

    def losses(self, experience: Experience, index: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of a micro-batch and what is logged of it, each summed over its tokens."""
        args = self.args
        tokens = experience.tokens.rows(index)
        mask, end = tokens.mask, tokens.replies.shape[1]
        old = {name: getattr(experience, name)[index, :end] for name in ("logprobs", "values", "advantages", "returns")}
        logprobs, entropies = reply_logprobs(self.policy_model, tokens, args.temperature)
        values = reply_values(self.value_model, tokens)
        surrogate, policy_clipped = policy_loss(logprobs, old["logprobs"], old["advantages"], args.cliprange)
        error, value_clipped = value_loss(values, old["values"], old["returns"], args.cliprange_value)
        log_ratio = logprobs - old["logprobs"]
        sums = {
            "loss/policy_avg": surrogate,
            "loss/value_avg": error,
            "policy/entropy_avg": entropies,
            "policy/approxkl_avg": log_ratio.exp() - 1 - log_ratio,
            "policy/clipfrac_avg": policy_clipped.float(),
            "val/clipfrac_avg": value_clipped.float(),
            "val/ratio": log_ratio.exp(),
        }
        sums = {name: value.where(mask, 0.0).sum() for name, value in sums.items()}
        loss = args.vf_coef * sums["loss/value_avg"]
        if self.state.global_step >= args.value_warmup_steps:
            loss = loss + sums["loss/policy_avg"] - args.entropy_coef * sums["policy/entropy_avg"]
        return loss, sums

    def ptx_backward(self, micro_batches: int) -> float:
        """Gradient of the language modelling loss on as many rows as the mini-batch has, the mean over their labels.

        Ouyang et al. 2022 (arXiv 2203.02155), equation 2: gamma E[log policy(x)] on pretraining data keeps what PPO
        would forget.
        """
        args, size = self.args, self.args.per_device_train_batch_size
        start = self.ptx_taken + args.process_index * micro_batches * size
        places = self.ptx_order.take(start, micro_batches * size)
        self.ptx_taken += micro_batches * size * args.world_size
        batches = [self.ptx_batch(places[at : at + size]) for at in range(0, len(places), size)]
        count = self.summed(sum((batch["labels"][:, 1:] != IGNORE).sum() for batch in batches))
        total = torch.zeros((), device=self.accelerator.device)
        for batch in batches:
            with self.autocast():
                logits = self.policy_model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), reduction="sum"
            )
            (args.ptx_coef * loss / count).backward()
            total += loss.detach()
        return float(self.summed(total) / count)

    def ptx_batch(self, places: list[int]) -> dict[str, torch.Tensor]:
        """Rows of the language modelling loss, padded on the right."""
        rows = [self.ptx_rows[place] for place in places]
        ids, mask = pad([row["input_ids"] for row in rows], self.processing_class.pad_token_id, left=False)
        labels, _ = pad([row["labels"] for row in rows], IGNORE, left=False)
        batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def optimizer_step(self) -> None:
        """Sums the gradients of all processes, clips them to `max_grad_norm`, and steps."""
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.args.world_size > 1:
                parameter.grad = self.summed(parameter.grad)
        self.grad_norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm))
        self.optimizer.step()
        self.optimizer.zero_grad()

    # The trainer's duties

    def end_step(self, metrics: dict[str, float], rows: list[dict], replies: list[list[int]], experience) -> None:
        """Counts the update, then logs, evaluates, saves and stops as the callbacks and the limits say."""
        args, state = self.args, self.state
        kl = self.controllers["kl"]
        metrics |= {"objective/kl_coef": kl.coef, "lr": self.lr_scheduler.get_last_lr()[0]}
        metrics |= {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        metrics["eps"] = args.batch_size / sum(self.seconds.values())
        metrics["val/tokens_per_second"] = float(self.summed(experience.tokens.mask.sum())) / self.seconds["rollout"]
        self.seconds.clear()
        kl.update(metrics["objective/kl"], args.batch_size)
        state.global_step += 1
        state.episode += args.batch_size
        state.epoch = state.episode / self.train_dataset_len
        self.logged.append({**metrics, "episode": state.episode})
        if args.sample_steps and state.global_step % args.sample_steps == 0 and state.is_world_process_zero:
            self.write_samples(rows, replies, experience)
        self.control = self.callback_handler.on_step_end(args, state, self.control)
        watch = self.controllers["watch"]
        for sign in watch.signs(metrics):
            warn(f"step {state.global_step}: {sign}")
        self.stopped = watch.stop(metrics)
        if self.stopped:
            self.stopped = f"stopped at step {state.global_step}: {self.stopped}"
            self.control.should_log = self.control.should_training_stop = True
            self.control.should_save = args.save_strategy != "no"
        if self.control.should_log:
            self.log({**Watch.mean(self.logged), "episode": state.episode})
            self.logged = []
            self.control.should_log = False
        if self.control.should_evaluate:
            self.evaluate()
            self.control.should_evaluate = False
        if self.control.should_save:
            self.save_checkpoint()
            self.control = self.callback_handler.on_save(args, state, self.control)
            self.control.should_save = False

    def evaluate(self, *_, **__) -> dict[str, float]:
        """Mean reward, KL, entropy and length of replies to the held-out prompts, sampled with one seed; logged."""
        args, tokenizer = self.args, self.processing_class
        rows = [self.eval_dataset[place] for place in range(len(self.eval_dataset))]
        prompts, size = [row["input_ids"] for row in rows], args.per_device_eval_batch_size
        self.model.eval()
        with self.autocast(), torch.no_grad():
            replies = generate_replies(
                self.policy_model, tokenizer, prompts, args.response_length, args.temperature, args.seed, size
            )
            said = likelihoods(self.policy_model, tokenizer, prompts, replies, args.temperature, size)
            under_reference = likelihoods(self.ref_model, tokenizer, prompts, replies, args.temperature, size)
            scores = self.scorer(prompts, replies, rows)["total"]
        metrics = {
            "eval_reward": float(scores.mean()),
            "eval_kl": reply_kl(said, under_reference),
            "eval_entropy": float(torch.cat([one.entropy for one in said]).mean()),
            "eval_length": sum(map(len, replies)) / len(replies),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        self.keep_best(metrics)
        return metrics

    def keep_best(self, metrics: dict[str, float]) -> None:
        """Remembers the checkpoint of this step as the best, if it is."""
        args, state = self.args, self.state
        if not args.load_best_model_at_end:
            return
        name = args.metric_for_best_model or "eval_reward"
        value = metrics[name if name.startswith("eval_") else f"eval_{name}"]
        if state.best_metric is None or (value > state.best_metric) == bool(args.greater_is_better):
            state.best_metric, state.best_global_step = value, state.global_step
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            self.control.should_save = True

    def save_checkpoint(self) -> None:
        """Writes `checkpoint-STEP`, from which `train` goes on to the same weights; older ones go as the limit says."""
        args, state = self.args, self.state
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_random_state(folder, args.process_index)
        self.accelerator.wait_for_everyone()
        if not state.is_world_process_zero:
            return
        checkpoint.save_weights(folder, self.roles)
        checkpoint.save_progress(folder, self.optimizer, self.lr_scheduler, self.controllers)
        state.save_to_json(str(folder / "trainer_state.json"))
        rotate_checkpoints(args.output_dir, args.save_total_limit, state.best_model_checkpoint)

    def write_samples(self, rows: list[dict], replies: list[list[int]], experience: Experience) -> None:
        """Appends some of the batch's replies, best first, to `rollouts.jsonl`."""
        kl = (experience.logprobs - experience.ref_logprobs).where(experience.tokens.mask, 0.0).sum(1)
        order = experience.scores.argsort(descending=True).tolist()
        with (Path(self.args.output_dir) / "rollouts.jsonl").open("a", encoding="utf-8") as stream:
            for place in order[:: max(len(order) // 8, 1)]:
                sample = {
                    "step": self.state.global_step,
                    "prompt": self.processing_class.decode(rows[place]["input_ids"]),
                    "reply": self.processing_class.decode(replies[place], skip_special_tokens=True),
                    "score": round(float(experience.scores[place]), 4),
                    "kl": round(float(kl[place]), 4),
                }
                stream.write(json.dumps(sample, ensure_ascii=False) + "\n")


def stop_ids(config: GenerationConfig, tokenizer) -> list[int]:
    """The token ids that end a reply: those of the model's generation config, and the tokenizer's EOS."""
    given = config.eos_token_id
    given = given if isinstance(given, list) else [] if given is None else [given]
    return [*dict.fromkeys([*given, tokenizer.eos_token_id])]


def set_generation_config(model: PreTrainedModel, config: GenerationConfig) -> None:
    """Sets it on the model and, under an adapter, on its base, which is the one that generates."""
    model.generation_config = config
    if hasattr(model, "get_base_model"):
        model.get_base_model().generation_config = config
