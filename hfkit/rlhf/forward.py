"""Forward passes of policy and value model: log-probabilities, entropies and values of the response tokens."""

from functools import partial

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hfkit.core.unwrap import without_adapter
from hfkit.models.dropout import turn_off_dropout
from hfkit.models.token_predictions import logprob_and_entropy, measure_predictions, to_float32
from hfkit.rlhf.batch import Tokens

Model = PreTrainedModel | PeftModel
"""A model of Transformers, with or without an adapter."""


def autocast(bf16: bool | None, device: torch.device) -> torch.autocast:
    """Return a bf16 autocast, enabled with `bf16`; the models have none, since no accelerator prepares them."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(bf16))


def recompute_activations(model: Model) -> None:
    """Keep only the inputs of a model's layers and recompute other activations (arXiv 1604.06174)."""
    is_new = hasattr(model, "activation_checkpointing_enable")  # since Transformers 5.23; the old name warns
    enable = model.activation_checkpointing_enable if is_new else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def eval_with_checkpointing(model: torch.nn.Module) -> None:
    """Put the model into eval mode, except layers with gradient checkpointing, which recompute only in training mode.

    PPO's ratio compares a network with itself one step earlier: dropout and router jitter would change it even at a
    learning rate of 0. The dropout of checkpointed layers is set to 0 for good: a float has no eval mode.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True
            turn_off_dropout(module)


def reply_logprobs(
    model: Model, tokens: Tokens, temperature: float, train_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each response token and the entropy of its distribution, in nats, (B, R) each.

    Both are 0 on padding.

    Args:
        train_entropy: whether to compute a gradient through the entropy.
    """
    measure = partial(logprob_and_entropy, temperature=temperature, train_entropy=train_entropy)
    found = measure_predictions(model, tokens.model_inputs(), tokens.targets(), measure)
    logprobs, entropies = (one.new_zeros(tokens.mask.shape).masked_scatter(tokens.mask, one) for one in found)
    return logprobs, entropies


def reply_values(model: Model, tokens: Tokens) -> torch.Tensor:
    """Return the value of the state before each response token, float32 (B, R)."""
    classifier = without_adapter(model)
    assert isinstance(classifier, PreTrainedModel)
    hidden = classifier.base_model(**tokens.model_inputs(), use_cache=False).last_hidden_state
    head = classifier.get_submodule("score")
    return tokens.left_aligned(to_float32(head(hidden[:, -tokens.replies.shape[1] :]).squeeze(-1)))
