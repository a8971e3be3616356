"""PPO for language models: trl's PPOTrainer with a loop of our own.

trl 1.12 is the last release with a PPOTrainer. Its class, its config and its constructor stay the interface; `train`
and `evaluate` are written afresh, of parts that each stand alone: rollout, scores, objective, controllers, checkpoint.
trl's PPO is imported here and in `config.py`, nowhere else.
"""

import copy
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, get_scheduler
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints
from trl.experimental.ppo import PPOTrainer as TrlPPOTrainer

from hfkit.core.console import warn
from hfkit.models.adapters import can_merge
from hfkit.models.generation import set_generation_config, stop_ids
from hfkit.models.reward_model import RewardModel
from hfkit.rlhf import checkpoint
from hfkit.rlhf.comparison import evaluate_policy
from hfkit.rlhf.config import PPOConfig
from hfkit.rlhf.controllers import KLController, RewardNormalizer
from hfkit.rlhf.experience import ExperienceMaker
from hfkit.rlhf.guards import refuse
from hfkit.rlhf.health import Watch
from hfkit.rlhf.prompts import Shuffled
from hfkit.rlhf.ptx import PTX
from hfkit.rlhf.roles import Roles
from hfkit.rlhf.rollout import Engine, GenerateEngine
from hfkit.rlhf.samples import SampleFile
from hfkit.rlhf.scores import Scorer
from hfkit.rlhf.update import Updater

__all__ = ["PPOConfig", "PPOTrainer"]


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
        roles = Roles(model, ref_model, reward_model, value_model)
        scorer = scorer or Scorer(processing_class, RewardModel(reward_model, processing_class))
        self.stops = stop_ids(own_generation_config, processing_class)
        kl = KLController(args.kl_coef, args.kl_target, args.kl_horizon)
        self.controllers = {"kl": kl, "watch": Watch(args.max_kl)}
        if args.normalize_rewards:
            self.controllers["normalizer"] = normalizer or RewardNormalizer()
        self.judge = ExperienceMaker(
            args, self.accelerator, roles, processing_class, scorer, self.stops, self.controllers
        )
        self.ptx = PTX(args, self.accelerator, ptx_rows, processing_class.pad_token_id) if ptx_rows else None
        self.update = Updater(args, self.accelerator, roles, self.optimizer, self.ptx)
        self.prompts = Shuffled(len(train_dataset), args.seed)
        self.engine = engine or GenerateEngine(
            model,
            processing_class,
            self.stops,
            args.response_length,
            args.temperature,
            args.local_rollout_forward_batch_size,
            args.merge_in_rollouts and can_merge(model, args.bf16),
            args.bf16,
        )
        self.samples = SampleFile(args.output_dir, processing_class)
        self.stopped: str | None = None
        self.logged: list[dict[str, float]] = []
        self.seconds: dict[str, float] = defaultdict(float)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """One optimizer; the value model's weights are a group with a learning rate of their own."""
        args = self.args
        if args.max_steps > 0:  # trl counts total_episodes alone
            num_training_steps = args.max_steps
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
                experience, metrics = self.judge(rows, replies)
            with self.timed("update"):
                metrics |= self.update(experience, self.state.global_step >= self.args.value_warmup_steps)
                self.lr_scheduler.step()
            self.end_step(metrics, rows, replies, experience)
        if self.logged:
            self.log_mean()
        self.accelerator.wait_for_everyone()  # the main process may still be writing the best
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            checkpoint.load_weights(Path(self.state.best_model_checkpoint), self.trained)
        self.policy_model.eval()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    @property
    def trained(self) -> dict[str, PreTrainedModel]:
        """The roles that are trained, by name."""
        return {"policy": self.policy_model, "value": self.value_model}

    def begin(self, resume_from_checkpoint: str | None) -> None:
        """The trainer's state: that of a new run, or of the checkpoint."""
        args, state = self.args, self.state
        state.max_steps = args.max_steps if args.max_steps > 0 else args.num_total_batches
        state.num_train_epochs = state.max_steps * args.batch_size / self.train_dataset_len
        for name in ("logging_steps", "eval_steps", "save_steps"):
            steps = getattr(args, name) or 0
            setattr(state, name, max(int(state.max_steps * steps), 1) if 0 < steps < 1 else int(steps))
        if too_slow := self.controllers["kl"].too_slow(state.max_steps * args.batch_size):
            warn(too_slow)
        state.global_step = state.episode = 0
        kept = {}
        if resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
            saved = type(state).load_from_json(str(folder / "trainer_state.json"))
            for name in ("global_step", "episode", "epoch", "log_history", "best_metric", "best_global_step"):
                setattr(state, name, getattr(saved, name))
            if saved.best_model_checkpoint:  # beside this one, wherever the run has moved
                state.best_model_checkpoint = str(self.folder_of(saved.best_global_step))
            checkpoint.load_weights(folder, self.trained)
            kept = checkpoint.load_progress(folder, self.optimizer, self.lr_scheduler, self.controllers)
            checkpoint.load_random_state(folder, args.process_index)
        if self.ptx:  # each mini-batch takes as many rows as it has replies
            learnt = max(state.global_step - args.value_warmup_steps, 0)
            self.ptx.taken = learnt * args.num_ppo_epochs * args.batch_size
        if state.is_world_process_zero:
            self.samples.begin(state.global_step)
        self.control = self.callback_handler.on_train_begin(args, state, self.control)
        self.logged, self.stopped = kept.get("logged", []), kept.get("stopped")
        for name, callback in self.stateful.items():
            for key, value in kept.get("callbacks", {}).get(name, {}).items():
                setattr(callback, key, value)

    @property
    def stateful(self) -> dict[str, ExportableState]:
        """What decides when to stop, and counts for it: the control, and callbacks such as early stopping."""
        every = [*self.callback_handler.callbacks, self.control]
        return {type(one).__name__: one for one in every if isinstance(one, ExportableState)}

    def next_rows(self) -> list[dict]:
        """This process's prompts of the next update."""
        args = self.args
        start = self.state.episode + args.process_index * args.local_batch_size
        return [self.train_dataset[place] for place in self.prompts.take(start, args.local_batch_size)]

    @contextmanager
    def timed(self, phase: str):
        """Adds to the seconds of a phase."""
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started

    # The trainer's duties

    def end_step(self, metrics: dict[str, float], rows: list[dict], replies: list[list[int]], experience) -> None:
        """Counts the update, then logs, evaluates, saves and stops as the callbacks and the limits say."""
        args, state = self.args, self.state
        kl = self.controllers["kl"]
        metrics |= {"objective/kl_coef": kl.coef, "lr": self.lr_scheduler.get_last_lr()[0]}
        metrics |= {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        metrics["eps"] = args.batch_size / sum(self.seconds.values())
        metrics["val/tokens_per_second"] = (
            float(self.accelerator.reduce(experience.tokens.mask.sum(), "sum")) / self.seconds["rollout"]
        )
        self.seconds.clear()
        kl.update(metrics["objective/kl"], args.batch_size)
        passes = state.episode // self.train_dataset_len
        state.global_step += 1
        state.episode += args.batch_size
        state.epoch = state.episode / self.train_dataset_len
        self.logged.append({**metrics, "episode": state.episode})
        if args.sample_steps and state.global_step % args.sample_steps == 0 and state.is_world_process_zero:
            self.samples.write(state.global_step, rows, replies, experience)
        self.control = self.callback_handler.on_step_end(args, state, self.control)
        if state.episode // self.train_dataset_len > passes or state.global_step == state.max_steps:
            self.control = self.callback_handler.on_epoch_end(args, state, self.control)
        watch = self.controllers["watch"]
        for sign in watch.signs(metrics):
            warn(f"step {state.global_step}: {sign}")
        self.stopped = watch.stop(metrics)
        if self.stopped:
            self.stopped = f"stopped at step {state.global_step}: {self.stopped}"
            self.control.should_log = self.control.should_training_stop = True
            self.control.should_save = args.save_strategy != "no"
        if self.control.should_log:
            self.log_mean()
            self.control.should_log = False
        if self.control.should_evaluate:
            self.evaluate()
            self.control.should_evaluate = False
        if self.control.should_save:
            self.save_checkpoint()
            self.control = self.callback_handler.on_save(args, state, self.control)
            self.control.should_save = False

    def log_mean(self) -> None:
        """Logs the mean of the updates since the log before."""
        self.log({**Watch.mean(self.logged), "episode": self.state.episode})
        self.logged = []

    def evaluate(self, *_, **__) -> dict[str, float]:
        """Mean reward, KL, entropy and length of replies to the held-out prompts, sampled with one seed; logged."""
        args = self.args
        rows = [self.eval_dataset[place] for place in range(len(self.eval_dataset))]
        held_out = evaluate_policy(
            self.policy_model, self.ref_model, self.judge.scorer, self.processing_class, rows, args, self.stops
        )
        # one process's figures for all of them: what to save and when to stop hang on these, and a reward may waver
        (metrics,) = broadcast_object_list([{f"eval_{name}": value for name, value in held_out.figures.items()}])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        self.keep_best(metrics)
        return metrics

    def keep_best(self, metrics: dict[str, float]) -> None:
        """Remembers the best figure for early stopping, and its checkpoint where that is to be loaded at the end."""
        args, state = self.args, self.state
        value, sign = metrics[args.metric_for_best_model], 1 if args.greater_is_better else -1
        if state.best_metric is not None and sign * value <= sign * state.best_metric:
            return
        state.best_metric, state.best_global_step = value, state.global_step
        if args.load_best_model_at_end:
            state.best_model_checkpoint = str(self.folder_of(state.global_step))
            self.control.should_save = True

    def folder_of(self, step: int) -> Path:
        """The checkpoint of a step."""
        return Path(self.args.output_dir) / f"checkpoint-{step}"

    def save_checkpoint(self) -> None:
        """Writes `checkpoint-STEP`, from which `train` goes on to the same weights; older ones go as the limit says."""
        args, state = self.args, self.state
        folder = self.folder_of(state.global_step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trainer_state.json").unlink(missing_ok=True)  # of one that broke: now it counts no more
        checkpoint.save_random_state(folder, args.process_index)
        self.accelerator.wait_for_everyone()
        if not state.is_world_process_zero:
            return
        checkpoint.save_weights(folder, self.trained)
        callbacks = {name: flat(one.state()) for name, one in self.stateful.items()}
        kept = {"logged": self.logged, "stopped": self.stopped, "callbacks": callbacks}
        checkpoint.save_progress(folder, self.optimizer, self.lr_scheduler, self.controllers, kept)
        state.save_to_json(str(folder / "trainer_state.json"))
        rotate_checkpoints(args.output_dir, args.save_total_limit, state.best_model_checkpoint)


def flat(state: dict[str, dict]) -> dict:
    """The attributes that a callback exports, whether its constructor takes them or not."""
    return state["args"] | state["attributes"]
