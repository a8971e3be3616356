"""What PPO refuses at once: what would train nothing, or the wrong thing."""

import os

from accelerate import PartialState
from peft import PeftModel

from hfkit.core.errors import ConfigError, HfkitError, Problem


def refuse(args, processing_class, model, reward_model, train_dataset, value_model) -> None:
    """The guards: each names what would have happened."""
    if problems := precision_problems(args):
        raise ConfigError(problems)
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * PartialState().num_processes
    if len(train_dataset) < batch:
        raise HfkitError(
            f"{len(train_dataset)} prompts < batch of {batch} (per_device_train_batch_size x "
            "gradient_accumulation_steps x processes): each update would take some of them twice"
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
        if scored is not None and getattr(scored.config, "num_labels", None) != 1:
            raise HfkitError(f"the {role} model has num_labels={scored.config.num_labels}; PPO needs 1")


PRECISION = "ACCELERATE_MIXED_PRECISION"


def precision_problems(config) -> list[Problem]:
    """fp16, asked for by the config or by accelerate's environment: trl's accelerator would scale the gradients."""
    remedy = "PPO's losses are not scaled for it: set bf16, or leave it out"
    asked = [Problem("fp16", True, remedy)] if getattr(config, "fp16", False) else []
    if os.environ.get(PRECISION) == "fp16":
        asked.append(Problem(PRECISION, "fp16", remedy))
    return asked
