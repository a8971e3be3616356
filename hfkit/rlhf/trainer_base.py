"""The constructor of TRL's PPOTrainer on Transformers' `Trainer`: models, batch sizes, optimizer, callbacks, state."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerState

from hfkit.models import saving
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.forward import Model
from hfkit.rlhf.sharding import shard
from hfkit.rlhf.trl_ppo import TrainerBase
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


class FourModelTrainer(TrainerBase):
    """A `Trainer` of the policy and the value model, with the arguments of TRL's PPOTrainer.

    `Trainer`'s own constructor makes the accelerator, which is the one of the other stages. No model is wrapped:
    `DistributedDataParallel` hides `generate` and wants a single forward.

    Attributes:
        model: the policy and the value model, as `policy` and `value_model`.
        train_dataset_len: the number of prompts.
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
    ):
        policy = get_peft_model(model, peft_config) if peft_config else model
        models: Any = (policy, ref_model, reward_model, value_model)
        self.policy_model, self.ref_model, self.reward_model, self.value_model = models
        self.train_dataset_len = len(train_dataset)
        args.stop_token = "eos"
        args.set_batch_sizes(self.train_dataset_len)
        trained = torch.nn.ModuleDict({"policy": policy, "value_model": value_model})
        data = (data_collator, train_dataset, eval_dataset, processing_class)
        # skips the constructor of TRL's PPOTrainer, which copies Trainer's and wraps the models
        Trainer.__init__(self, trained, args, *data, callbacks=callbacks, optimizers=optimizers)
        trained.config = policy.config  # type: ignore[assignment]  # trackers log it
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
