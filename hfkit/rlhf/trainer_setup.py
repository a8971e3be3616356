"""Assembles the parts of PPO's trainer."""

from collections import defaultdict
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, get_scheduler

from hfkit.models.checkpointing import recompute_activations
from hfkit.models.generation import Engine, stop_ids
from hfkit.models.reward_model import RewardModel
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.controllers import Controllers, KLController, RewardNormalizer
from hfkit.rlhf.experience import ExperienceMaker
from hfkit.rlhf.forward import Model
from hfkit.rlhf.monitor import TrainingMonitor
from hfkit.rlhf.ptx import PTX
from hfkit.rlhf.rewards import Scorer
from hfkit.rlhf.roles import Roles
from hfkit.rlhf.rollout import Rollouts, policy_engine
from hfkit.rlhf.rollout_log import RolloutLog
from hfkit.rlhf.row_order import ShuffledOrder
from hfkit.rlhf.trainer_base import FourModelTrainer
from hfkit.rlhf.trainer_checks import validate_trainer_inputs
from hfkit.rlhf.update import Updater


class BasePPOTrainer(FourModelTrainer):
    """Assembles the parts of PPOTrainer, which has the documentation of the arguments.

    Attributes:
        batch_size: responses of an update, over all processes; `local_batch_size` those of one process.
        pending_logs: metrics of the updates since the last log.
        seconds: time spent in each phase of the current update.
    """

    def __init__(
        self,
        args: PPOArguments,
        processing_class: PreTrainedTokenizerBase,
        model: Model,
        ref_model: Model,
        reward_model: Model | None,
        train_dataset: Dataset,
        value_model: Model,
        *more: Any,
        scorer: Scorer | None = None,
        normalizer: RewardNormalizer | None = None,
        ptx_rows: Dataset | None = None,
        engine: Engine | None = None,
        **options: Any,
    ):
        validate_trainer_inputs(args, processing_class, model, reward_model, train_dataset, value_model, ref_model)
        if args.gradient_checkpointing:
            for trained in (model, value_model):
                recompute_activations(trained)
                trained.enable_input_require_grads()  # the input of a frozen base's first layer needs a gradient
        data = (train_dataset, value_model, *more)
        super().__init__(args, processing_class, model, ref_model, reward_model, *data, **options)
        self.batch_size, self.local_batch_size = cast(int, args.batch_size), cast(int, args.local_batch_size)
        self.stop_token_ids = stop_ids(self.policy_model.generation_config, processing_class)
        self.stopped: str | None = None
        self.pending_logs: list[dict[str, float]] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.controllers = Controllers(
            KLController(args.kl_coef, args.kl_target, args.kl_horizon),
            TrainingMonitor(args.max_kl),
            (normalizer or RewardNormalizer()) if args.normalize_rewards else None,
        )
        self.prompt_order = ShuffledOrder(len(train_dataset), args.seed)
        self.engine = engine or self.default_engine(self.policy_model, value_model)
        self.rollouts = Rollouts(self.engine, self.policy_model, args, self.stop_token_ids)
        self.roles = roles = Roles(self.policy_model, ref_model, reward_model, value_model)
        scorer = scorer or self.default_scorer(reward_model)
        self.experience_maker = ExperienceMaker(
            args, self.accelerator, roles, processing_class, scorer, self.stop_token_ids, self.controllers
        )
        self.ptx = PTX(args, self.accelerator, ptx_rows, processing_class.pad_token_id) if ptx_rows else None
        self.updater = Updater(args, self.accelerator, roles, self.optimizer, self.ptx)
        self.rollout_log = RolloutLog(args.output_dir, processing_class)

    def default_scorer(self, reward_model: Model | None) -> Scorer:
        """Return a scorer that gives the policy's token ids to the reward model."""
        assert reward_model is not None
        tokenizer, max_tokens = self.processing_class, self.args.max_tokens_per_micro_batch
        reward = RewardModel(reward_model, tokenizer)
        return Scorer(tokenizer, reward, stop_token_ids=self.stop_token_ids, max_tokens=max_tokens)

    def default_engine(self, policy: Model, value: Model) -> Engine:
        """Return the engine of `rollout_engine`."""
        longest = max(map(len, self.train_dataset["input_ids"]))
        return policy_engine(self.args, policy, self.processing_class, [policy, value], longest)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Create one optimizer, with a parameter group and a learning rate for each of policy and value model."""
        args = self.args
        if args.max_steps > 0:
            num_training_steps = args.max_steps
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, self.model)
            rates = {self.policy_model: args.learning_rate, self.value_model: args.value_learning_rate}
            groups = [
                {
                    "params": [p for p in model.parameters() if p.requires_grad],
                    "lr": args.learning_rate if rate is None else rate,
                    "weight_decay": args.weight_decay,
                }
                for model, rate in rates.items()
            ]
            self.optimizer = optimizer_class(groups, **options)
        if self.lr_scheduler is None:
            warmup = args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = get_scheduler(args.lr_scheduler_type, self.optimizer, warmup, num_training_steps)
