"""Sets up PPO's trainer: the constructor of TRL's PPOTrainer on Transformers' `Trainer`, and the parts of the loop."""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from hfkit.models import saving
from hfkit.models.generation import Engine, stop_ids
from hfkit.models.reward_model import RewardModel
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.controllers import Controllers, KLController, RewardNormalizer
from hfkit.rlhf.experience import ExperienceMaker
from hfkit.rlhf.forward import Model, recompute_activations
from hfkit.rlhf.monitor import TrainingMonitor
from hfkit.rlhf.ptx import PTX
from hfkit.rlhf.rewards import Scorer
from hfkit.rlhf.roles import Roles
from hfkit.rlhf.rollout import Rollouts, policy_engine
from hfkit.rlhf.rollout_log import RolloutLog
from hfkit.rlhf.row_order import ShuffledOrder
from hfkit.rlhf.sharding import shard
from hfkit.rlhf.trainer_checks import validate_trainer_inputs
from hfkit.rlhf.trl_ppo import TrainerBase
from hfkit.rlhf.update import Updater
from hfkit.training.sharding import CollectiveSave, is_sharded

RANK_SEED = 100_003
"""Seeds of processes differ by this, as in TRL."""


@dataclass
class OnlineTrainerState(TrainerState):
    """The state of a trainer that samples what it trains on.

    Attributes:
        episode: responses sampled so far.
    """

    episode: int = 0


class BasePPOTrainer(TrainerBase):
    """Assembles the parts of PPOTrainer, which has the documentation of the arguments.

    `Trainer`'s own constructor makes the accelerator, which is the one of the other stages. No model is wrapped:
    `DistributedDataParallel` hides `generate` and wants a single forward.

    Attributes:
        model: the policy and the value model, as `policy` and `value_model`.
        train_dataset_len: the number of prompts.
        batch_size: responses of an update, over all processes; `local_batch_size` those of one process.
        pending_logs: metrics of the updates since the last log.
        seconds: time spent in each phase of the current update.
    """

    args: PPOArguments
    state: OnlineTrainerState
    processing_class: PreTrainedTokenizerBase
    train_dataset: Dataset
    eval_dataset: Dataset
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LambdaLR

    def __init__(
        self,
        args: PPOArguments,
        processing_class: PreTrainedTokenizerBase,
        model: Model,
        ref_model: Model,
        reward_model: Model | None,
        train_dataset: Dataset,
        value_model: Model,
        data_collator: DataCollatorWithPadding | None = None,
        eval_dataset: Dataset | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        callbacks: list[TrainerCallback] | None = None,
        peft_config: PeftConfig | None = None,
        *,
        scorer: Scorer | None = None,
        normalizer: RewardNormalizer | None = None,
        ptx_rows: Dataset | None = None,
        engine: Engine | None = None,
    ):
        validate_trainer_inputs(args, processing_class, model, reward_model, train_dataset, value_model, ref_model)
        if args.gradient_checkpointing:
            for trained in (model, value_model):
                recompute_activations(trained)
                trained.enable_input_require_grads()  # the input of a frozen base's first layer needs a gradient
        policy = get_peft_model(model, peft_config) if peft_config else model
        models: Any = (policy, ref_model, reward_model, value_model)
        self.policy_model, self.ref_model, self.reward_model, self.value_model = models
        self.train_dataset_len = len(train_dataset)
        data = (data_collator, train_dataset, eval_dataset, processing_class)
        self.init_trainer(args, *data, optimizers=optimizers, callbacks=callbacks)
        self.batch_size, self.local_batch_size = cast(int, args.batch_size), cast(int, args.local_batch_size)
        self.stop_token_ids = stop_ids(policy.generation_config, processing_class)
        self.stopped: str | None = None
        self.pending_logs: list[dict[str, float]] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.controllers = Controllers(
            KLController(args.kl_coef, args.kl_target, args.kl_horizon),
            TrainingMonitor(args.max_kl),
            (normalizer or RewardNormalizer()) if args.normalize_rewards else None,
        )
        self.prompt_order = ShuffledOrder(len(train_dataset), args.seed)
        self.engine = engine or self.default_engine()
        self.rollouts = Rollouts(self.engine, policy, args, self.stop_token_ids)
        self.roles = roles = Roles(policy, ref_model, reward_model, value_model)
        scorer = scorer or self.default_scorer(reward_model)
        self.experience_maker = ExperienceMaker(
            args, self.accelerator, roles, processing_class, scorer, self.stop_token_ids, self.controllers
        )
        self.ptx = PTX(args, self.accelerator, ptx_rows, processing_class.pad_token_id) if ptx_rows else None
        self.updater = Updater(args, self.accelerator, roles, self.optimizer, self.ptx)
        self.rollout_log = RolloutLog(args.output_dir, processing_class)

    def init_trainer(self, args: PPOArguments, *data: Any, **options: Any) -> None:
        """Call `Trainer`'s constructor for both trained models, move all models, and make optimizer and state."""
        args.stop_token = "eos"
        args.set_batch_sizes(self.train_dataset_len)
        trained = torch.nn.ModuleDict({"policy": self.policy_model, "value_model": self.value_model})
        # skips the constructor of TRL's PPOTrainer, which copies Trainer's and wraps the models
        Trainer.__init__(self, trained, args, *data, **options)
        trained.config = self.policy_model.config  # type: ignore[assignment]  # trackers log it
        self.move_models()
        self.create_optimizer_and_scheduler(args.num_total_batches or 0)
        handler = self.callback_handler
        handler.optimizer, handler.lr_scheduler = self.optimizer, self.lr_scheduler
        self.state = OnlineTrainerState(**vars(self.state))
        torch.manual_seed(args.seed + args.process_index * RANK_SEED)

    def move_models(self) -> None:
        """Move the frozen models to the device of the trained ones; under FSDP2 shard all of them.

        Processes may have drawn different initial weights: those of the main process are used.
        """
        trained = (self.policy_model, self.value_model)
        frozen = [one for one in (self.ref_model, self.reward_model) if one is not None]
        if self.is_fsdp_enabled:
            for one in (*trained, *frozen):
                shard(one, bool(self.args.bf16))
            return
        for one in frozen:
            one.to(self.accelerator.device)
        broadcast([p.data for one in trained for p in one.parameters() if p.requires_grad])

    def default_scorer(self, reward_model: Model | None) -> Scorer:
        """Return a scorer that gives the policy's token ids to the reward model."""
        assert reward_model is not None
        tokenizer, max_tokens = self.processing_class, self.args.max_tokens_per_micro_batch
        reward = RewardModel(reward_model, tokenizer)
        return Scorer(tokenizer, reward, stop_token_ids=self.stop_token_ids, max_tokens=max_tokens)

    def default_engine(self) -> Engine:
        """Return the engine of `rollout_engine`."""
        longest = max(map(len, self.train_dataset["input_ids"]))
        trained: list[Model] = [self.policy_model, self.value_model]
        return policy_engine(self.args, self.policy_model, self.processing_class, trained, longest)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Create one optimizer, with a learning rate for each of policy and value model.

        As in `Trainer`, biases and norms are in separate parameter groups, without weight decay.
        """
        args = self.args
        if args.max_steps > 0:
            num_training_steps = args.max_steps
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, self.model)
            rates = {self.policy_model: args.learning_rate, self.value_model: args.value_learning_rate}
            groups = []
            for model, rate in rates.items():
                decaying = self.get_decay_parameter_names(model)
                shared = {"lr": args.learning_rate if rate is None else rate}
                trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
                for decays in (True, False):
                    group = [p for name, p in trained.items() if (name in decaying) == decays]
                    groups.append({"params": group, "weight_decay": args.weight_decay if decays else 0.0, **shared})
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **options)
        self.create_scheduler(num_training_steps, self.optimizer)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy alone, as `Trainer.save_model` does; a sharded policy is saved whole."""
        policy = self.policy_model
        if is_sharded(policy):
            save = CollectiveSave(self, partial(saving.save_model, policy, self.processing_class), policy)
            return save(Path(output_dir or self.args.output_dir))
        both, self.model = self.model, policy
        try:
            Trainer.save_model(self, output_dir, _internal_call)
        finally:
            self.model = both
