"""trl's PPOTrainer as hfkit runs it: its interface and its loop, with cures around what the loop gets wrong.

Line numbers are those of trl 1.12.0's `experimental/ppo/ppo_trainer.py`. Replace `train` here to replace the loop:
nothing else in hfkit knows of it.
"""

import copy
import gc

import numpy as np
import torch
from accelerate.utils import patch_environment
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel
from trl.experimental.ppo import PPOConfig
from trl.experimental.ppo import PPOTrainer as TrlPPOTrainer

from hfkit.errors import HfkitError

__all__ = ["PPOConfig", "PPOTrainer"]


class PPOTrainer(TrlPPOTrainer):
    """trl's PPOTrainer, same arguments, with these differences.

    - Gradients are clipped to `max_grad_norm` (trl never does).
    - `num_mini_batches` is the number of optimizer steps in a pass over a batch (815: with accumulation it is not),
      also for the last batch of the data loader (810: a step per micro-batch there).
    - Losses, ratios and entropy are averaged over what was measured, not over empty slots beside it (630).
    - `bf16` is honoured (460: the accelerator never hears of it), and so is `gradient_checkpointing`, for the value
      model too (283).
    - Rollouts use no processor but the temperature, whatever the model's generation config says (620): a repetition
      penalty there would leak into the log-probabilities and show as a negative KL.
    - The model's own generation config is back in place after training (395 and 401 take its EOS).
    - The shuffling of mini-batches is seeded (it draws from NumPy's global generator).
    - What would hang, train nothing or train the wrong thing is refused at once.

    Raises:
        HfkitError: fewer prompts than a batch; pad token equal to EOS; a policy or value model with nothing to
            train, or quantized without an adapter; one model in two roles.
    """

    def __init__(self, args, processing_class, model, ref_model, reward_model, train_dataset, value_model, **kwargs):
        refuse(args, processing_class, model, reward_model, train_dataset, value_model)
        args.stop_token = "eos"
        self.own_generation_config = copy.deepcopy(model.generation_config)
        neutral = GenerationConfig(
            bos_token_id=processing_class.bos_token_id,
            eos_token_id=processing_class.eos_token_id,
            pad_token_id=processing_class.pad_token_id,
        )
        set_generation_config(model, neutral)
        if args.gradient_checkpointing:
            for trained in (model, value_model):
                trained.gradient_checkpointing_enable()
                trained.enable_input_require_grads()  # else nothing needs a gradient at a frozen base's first layer
        with patch_environment(accelerate_mixed_precision="bf16" if args.bf16 else "no"):
            super().__init__(
                args, processing_class, model, ref_model, reward_model, train_dataset, value_model, **kwargs
            )
        gradient_state = self.accelerator.gradient_state
        gradient_state.plugin_kwargs.update(
            num_steps=args.gradient_accumulation_steps // args.num_mini_batches, sync_with_dataloader=False
        )
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        # accelerate calls the wrapped optimizer only when gradients are whole, so this is once an optimizer step
        self.optimizer.optimizer.register_step_pre_hook(self.clip)
        np.random.seed(args.seed + self.accelerator.process_index)

    def clip(self, *_) -> None:
        """Scales the gradients of policy and value together to a norm of at most `max_grad_norm`."""
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm)

    def train(self) -> None:
        """Runs trl's loop, then gives the policy its own generation config back."""
        micro_batches = self.args.gradient_accumulation_steps
        # The loop reads this only to size its tables of losses and ratios (630), N times too large with N mini-batches
        self.args.gradient_accumulation_steps = micro_batches // self.args.num_mini_batches
        self.accelerator.print = lambda *words, **options: None  # the progress line says that training has begun
        gc.collect()
        gc.freeze()  # trl collects garbage in each update; what is loaded by now need not be looked through again
        try:
            super().train()
        finally:
            gc.unfreeze()
            self.args.gradient_accumulation_steps = micro_batches
            set_generation_config(self.policy_model, self.own_generation_config)


def refuse(args, processing_class, model, reward_model, train_dataset, value_model) -> None:
    """The guards: each names what would have happened."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if len(train_dataset) < batch:
        raise HfkitError(
            f"{len(train_dataset)} prompts < batch of {batch} (per_device_train_batch_size x "
            "gradient_accumulation_steps): the loop would wait for a full batch for ever"
        )
    if processing_class.padding_side != "left":
        raise HfkitError("prompts must be padded on the left, or replies begin after padding: set padding_side")
    if processing_class.pad_token_id in (None, processing_class.eos_token_id):
        raise HfkitError("pad token equals EOS: a reply's end could not be told from padding; set pad_token")
    if args.gradient_accumulation_steps % args.num_mini_batches:
        raise HfkitError(
            f"num_mini_batches={args.num_mini_batches} must divide "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps}"
        )
    if value_model is reward_model:
        raise HfkitError("value_model is reward_model: training the value would change the rewards; pass a copy")
    for role, trained in (("policy", model), ("value model", value_model)):
        if not any(parameter.requires_grad for parameter in trained.parameters()):
            raise HfkitError(f"the {role} has nothing to train: load its adapter with is_trainable=True")
        if getattr(trained, "is_quantized", False) and not isinstance(trained, PeftModel):
            raise HfkitError(
                f"the {role} is quantized and has no adapter: only its embeddings, norms and head would be trained; "
                "set use_peft: true"
            )
    for role, scored in (("reward", reward_model), ("value", value_model)):
        if getattr(scored.config, "num_labels", None) != 1:
            raise HfkitError(f"the {role} model has num_labels={scored.config.num_labels}; PPO needs 1")


def set_generation_config(model: PreTrainedModel, config: GenerationConfig) -> None:
    """Sets it on the model and, under an adapter, on its base, which is the one that generates."""
    model.generation_config = config
    if hasattr(model, "get_base_model"):
        model.get_base_model().generation_config = config
