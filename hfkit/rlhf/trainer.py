"""PPO's training loop, with logs, evaluation, checkpoints and resuming as in Transformers.

`trainer_setup.py` has the constructor, with the parts that the loop runs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from hfkit.core.console import warn
from hfkit.core.device import random_state, restore_random_state
from hfkit.core.interrupts import Interrupted, droppable
from hfkit.models.engine_errors import EngineError
from hfkit.rlhf import checkpoint
from hfkit.rlhf.experience import Experience
from hfkit.rlhf.forward import Model
from hfkit.rlhf.monitor import mean_metrics
from hfkit.rlhf.policy_evaluation import evaluate_policy
from hfkit.rlhf.trainer_setup import BasePPOTrainer, OnlineTrainerState
from hfkit.training.interruption import agree_on_signal, leave

RESUMED_STATE = ("global_step", "episode", "epoch", "log_history", "best_metric", "best_global_step")
"""Fields of the trainer's state that a resumed run takes from the checkpoint."""


class PPOTrainer(BasePPOTrainer):
    """Takes the arguments of TRL's PPOTrainer and some more; a subclass of it up to TRL 1.12, which still has one.

    Args:
        scorer: scores responses; default is the reward model on the policy's token ids.
        normalizer: of the rewards, for `normalize_rewards`.
        ptx_rows: rows of `input_ids` and `labels` for the language modeling loss, with `ptx_coef`.
        engine: samples responses; default is that of `rollout_engine`.

    Attributes:
        stopped: why training stopped early, or None.
        seconds_before: training time up to the checkpoint that the run resumed from.

    Raises:
        HfkitError: fewer prompts than a batch; pad token equal to EOS; a policy or value model with nothing to
            train, or quantized without an adapter; one model in two roles.
    """

    @property
    def trained_models(self) -> dict[str, Model]:
        """The models that are trained, by role."""
        return {"policy": self.roles.policy, "value": self.roles.value}

    def train(self, resume_from_checkpoint: str | None = None) -> None:  # type: ignore[override]  # as in TRL's PPO
        """Train for `max_steps` updates, from the start or from a folder that `save_checkpoint` wrote.

        A callback or a limit may stop it earlier; `stopped` then says why.
        """
        self.start(resume_from_checkpoint)
        while self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
            rows, controllers = self.next_rows(), self.controllers.state_dict()
            random = random_state(self.accelerator.device)
            with self.droppable() as failures:
                with self.timed("rollout"):
                    replies = self.rollouts.sample([row["input_ids"] for row in rows])
                if not agree_on_signal():  # all processes score together
                    with self.timed("scoring"):
                        experience, metrics = self.experience_maker(rows, replies)
            if failures or agree_on_signal():  # the checkpoint is that of the last update
                self.controllers.load_state_dict(controllers)
                restore_random_state(random, self.accelerator.device)
                leave(self, *failures)
            with self.timed("update"):
                metrics |= self.updater(experience, self.state.global_step >= self.args.value_warmup_steps)
            metrics |= self.step_metrics(experience)
            self.lr_scheduler.step()
            self.end_step(metrics, rows, replies, experience)
        if self.pending_logs:
            self.log_pending()
        self.accelerator.wait_for_everyone()  # the main process may still be writing the best checkpoint
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            checkpoint.load_weights(Path(self.state.best_model_checkpoint), self.trained_models)
        self.roles.policy.eval()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def start(self, resume_from_checkpoint: str | None) -> None:
        """Set the trainer's state: that of a new run, or of the checkpoint."""
        args, state = self.args, self.state
        state.max_steps = args.max_steps if args.max_steps > 0 else args.num_total_batches or 0
        state.num_train_epochs = state.max_steps * self.batch_size / self.train_dataset_len  # type: ignore[assignment]  # a fraction
        state.compute_steps(args, state.max_steps)
        if warning := self.controllers.kl.slowness_warning(state.max_steps * self.batch_size):
            warn(warning)
        state.global_step = state.episode = 0
        kept = self.load_checkpoint(Path(resume_from_checkpoint)) if resume_from_checkpoint else {}
        if self.ptx:  # each mini-batch takes as many rows as it has responses
            policy_updates = max(state.global_step - args.value_warmup_steps, 0)
            self.ptx.taken = policy_updates * args.num_ppo_epochs * self.batch_size
        if state.is_world_process_zero:
            self.rollout_log.truncate(state.global_step)
        self.control = self.callback_handler.on_train_begin(args, state, self.control)
        self.pending_logs, self.stopped = kept.get("logged", []), kept.get("stopped")
        self.seconds_before = kept.get("seconds", 0.0)
        self.started = time.time() - self.seconds_before
        for name, callback in self.stateful_callbacks.items():
            for key, value in kept.get("callbacks", {}).get(name, {}).items():
                setattr(callback, key, value)
        if self.control.should_evaluate:  # a signal has interrupted the evaluation of this step
            self.evaluate()
            self.control.should_evaluate = False

    def next_rows(self) -> list[dict]:
        """Return this process's prompts of the next update."""
        start = self.state.episode + self.args.process_index * self.local_batch_size
        return [self.train_dataset[index] for index in self.prompt_order.take(start, self.local_batch_size)]

    @contextmanager
    def droppable(self) -> Iterator[list[EngineError]]:
        """Leave a block whose results can be dropped if the engine fails; the yielded list then holds the error.

        A signal leaves it too: a single process at once, several processes when they agree.
        """
        failures: list[EngineError] = []
        with droppable() if self.args.world_size == 1 else suppress(KeyboardInterrupt, Interrupted):
            try:
                yield failures
            except EngineError as error:
                failures.append(error)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of the block to the seconds of a phase."""
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started

    # After each update: log, evaluate, save, stop

    def step_metrics(self, experience: Experience) -> dict[str, float]:
        """Return the KL coefficient, the learning rate and the speed of the update that just ended."""
        tokens = float(self.accelerator.reduce(experience.tokens.mask.sum(), "sum"))
        return {
            "objective/kl_coef": self.controllers.kl.coef,
            "lr": float(self.lr_scheduler.get_last_lr()[0]),
            **{f"time/{phase}": seconds for phase, seconds in self.seconds.items()},
            "eps": self.batch_size / sum(self.seconds.values()),
            "val/tokens_per_second": tokens / self.seconds["rollout"],
        }

    def end_step(
        self, metrics: dict[str, float], rows: list[dict], replies: list[list[int]], experience: Experience
    ) -> None:
        """Count the update, then log, evaluate, save and stop as callbacks and limits require."""
        args, state = self.args, self.state
        self.seconds.clear()
        self.controllers.kl.update(metrics["objective/kl"], self.batch_size)
        passes = state.episode // self.train_dataset_len
        state.global_step += 1
        state.episode += self.batch_size
        state.epoch = state.episode / self.train_dataset_len
        self.pending_logs.append({**metrics, "episode": state.episode})
        if args.sample_steps and state.global_step % args.sample_steps == 0 and state.is_world_process_zero:
            prompts, kl = [row["input_ids"] for row in rows], experience.kl_per_reply()
            self.rollout_log.append(state.global_step, prompts, replies, experience.scores, kl)
        self.control = self.callback_handler.on_step_end(args, state, self.control)
        if state.episode // self.train_dataset_len > passes or state.global_step == state.max_steps:
            self.control = self.callback_handler.on_epoch_end(args, state, self.control)
        self.stopped = self.controllers.monitor.check(metrics, args, state, self.control) or self.stopped
        if self.control.should_log:
            self.log_pending()
            self.control.should_log = False
        if self.control.should_evaluate:
            with self.droppable() as failures:
                self.evaluate()
            if failures or agree_on_signal():
                leave(self, *failures)
            self.control.should_evaluate = False
        if self.control.should_save:
            self.save_checkpoint()
            self.control = self.callback_handler.on_save(args, state, self.control)
            self.control.should_save = False

    def log_pending(self) -> None:
        """Log the mean metrics of the updates since the last log."""
        self.log({**mean_metrics(self.pending_logs), "episode": self.state.episode})
        self.pending_logs = []

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Log mean reward, KL, entropy and length of responses to held-out prompts, sampled with a fixed seed."""
        args, scorer, rows = self.args, self.experience_maker.scorer, list(self.eval_dataset)
        policy, reference, tokenizer = self.roles.policy, self.roles.reference, self.processing_class
        held_out = evaluate_policy(policy, reference, tokenizer, scorer, rows, args, self.stop_token_ids)
        metrics = {f"eval_{name}": value for name, value in held_out.metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        self.track_best(metrics)
        return metrics

    def track_best(self, metrics: dict[str, float]) -> None:
        """Remember the best metric for early stopping, and its checkpoint if that is to be loaded at the end."""
        args, state = self.args, self.state
        value, sign = metrics[args.metric_for_best_model], 1 if args.greater_is_better else -1
        if state.best_metric is not None and sign * value <= sign * state.best_metric:
            return
        state.best_metric, state.best_global_step = value, state.global_step
        if args.load_best_model_at_end:
            state.best_model_checkpoint = str(self.checkpoint_folder(state.global_step))
            self.control.should_save = True

    # Checkpoints

    @property
    def stateful_callbacks(self) -> dict[str, ExportableState]:
        """The control and the callbacks that have a state to save, such as early stopping, by class name."""
        every = [*self.callback_handler.callbacks, self.control]
        return {type(one).__name__: one for one in every if isinstance(one, ExportableState)}

    def checkpoint_folder(self, step: int) -> Path:
        """Return the folder for the checkpoint of a step."""
        return Path(self.args.output_dir) / f"checkpoint-{step}"

    def save_checkpoint(self) -> None:
        """Write `checkpoint-STEP`, from which `train` resumes to the same weights; remove old ones over the limit."""
        args, state = self.args, self.state
        folder = self.checkpoint_folder(state.global_step)
        folder.mkdir(parents=True, exist_ok=True)
        # an interrupted save left it; without it, the folder counts as incomplete
        (folder / "trainer_state.json").unlink(missing_ok=True)
        checkpoint.save_random_state(folder, args.process_index)
        self.accelerator.wait_for_everyone()
        checkpoint.save_weights(folder, self.trained_models)
        exported = {name: callback.state() for name, callback in self.stateful_callbacks.items()}
        callbacks = {name: one["args"] | one["attributes"] for name, one in exported.items()}
        seconds = time.time() - self.started
        kept = {"logged": self.pending_logs, "stopped": self.stopped, "callbacks": callbacks, "seconds": seconds}
        checkpoint.save_progress(folder, self.optimizer, self.lr_scheduler, self.controllers, kept)
        if not state.is_world_process_zero:
            return
        state.save_to_json(str(folder / "trainer_state.json"))
        rotate_checkpoints(args.output_dir, args.save_total_limit, state.best_model_checkpoint)

    def load_checkpoint(self, folder: Path) -> dict:
        """Load what `save_checkpoint` wrote; return the saved state of callbacks and logs."""
        state = self.state
        saved = OnlineTrainerState.load_from_json(str(folder / "trainer_state.json"))
        for name in RESUMED_STATE:
            setattr(state, name, getattr(saved, name))
        if saved.best_model_checkpoint:  # next to this checkpoint, even if the run's folder has moved
            state.best_model_checkpoint = str(self.checkpoint_folder(saved.best_global_step))
        checkpoint.load_weights(folder, self.trained_models)
        kept = checkpoint.load_progress(folder, self.optimizer, self.lr_scheduler, self.controllers)
        checkpoint.load_random_state(folder, self.args.process_index)
        return kept
