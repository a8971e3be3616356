"""Policy and value model on a batch: log-probabilities and entropies of the replies' tokens, and their values."""

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

from hfkit.rlhf.batch import Tokens


def autocast(args, device: torch.device):
    """bf16 autocast where `args.bf16` asks for it; the accelerator that trl's trainer makes never hears of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)


def train_without_noise(model: torch.nn.Module) -> None:
    """Eval mode, but for the layers that recompute their activations, which do so only where they are told they train.

    PPO's ratio is of one network with itself a step before: dropout and a router's jitter would move it at learning
    rate 0. Layers that recompute lose their own dropout for good; it is a number, no module that could be switched off.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True
            for name, value in vars(module).items():
                if isinstance(value, float) and "drop" in name:
                    setattr(module, name, 0.0)


def reply_logits(model: PreTrainedModel, tokens: Tokens, temperature: float) -> torch.Tensor:
    """Logits of the distribution that each token of `tokens.replies_at_right` was sampled from, float32 (B, R, V).

    Only those columns go through the output head: over a large vocabulary it is most of the memory.
    """
    width = tokens.replies.shape[1]
    logits = widened(model(**tokens.inputs(), use_cache=False, logits_to_keep=width).logits)
    return logits if temperature == 1.0 else logits / temperature  # over a large vocabulary, a pass and a copy less


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or in float64 if it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def reply_logprobs(
    model: PreTrainedModel, tokens: Tokens, temperature: float, train_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each token of the replies, and the entropy where it was sampled, in nats, (B, R) each.

    Args:
        train_entropy: whether a gradient is wanted through the entropy; it takes the memory of the logits once more.
    """
    logits = reply_logits(model, tokens, temperature)
    with torch.set_grad_enabled(torch.is_grad_enabled() and train_entropy):
        entropies = entropy_from_logits(logits)
    logprobs = selective_log_softmax(logits, tokens.replies_at_right())
    return tokens.from_right(logprobs), tokens.from_right(entropies)


def reply_values(model: PreTrainedModel, tokens: Tokens) -> torch.Tensor:
    """Value of the state before each token of the replies, float32 (B, R)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.base_model(**tokens.inputs(), use_cache=False).last_hidden_state
    return tokens.from_right(widened(base.score(hidden[:, -tokens.replies.shape[1] :]).squeeze(-1)))
