"""What differs between the releases of TRL that hfkit works with, in its trainers of SFT and preferences.

`tests/core/test_compat.py` fails when upstream moves one of these parts.
"""

from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from typing import Any, NamedTuple

from hfkit.core.unwrap import without_adapter


class EncodedRows:
    """A mixin for a trainer of TRL that gets encoded rows.

    trl 1.12.0: `RewardTrainer` has no option to skip this method, which tokenizes all rows except pairs.
    """

    def _prepare_dataset(self, dataset, *args):
        return dataset


def averages_router_loss(arguments) -> bool:
    """Return whether a trainer adds the mean router loss over the batches of a step, given its arguments.

    trl 1.15.0: `SFTTrainer` does. trl 1.12.0, and Transformers' `Trainer`: the model adds it to the loss of each batch.
    """
    return any(field.name == "loss_type" for field in fields(arguments)) and fuses_head(arguments)


def fuses_head(arguments) -> bool:
    """Return whether TRL's SFT computes every loss from the weights of the output head, given its `SFTConfig`.

    trl 1.12.0: only the default loss, "chunked_nll", does; others use logits. 1.15.0: every loss does, and the default
    is "nll".
    """
    return next(field.default for field in fields(arguments) if field.name == "loss_type") == "nll"


def has_plain_loss(arguments) -> bool:
    """Return whether an `SFTConfig` of TRL asks for the mean loss of the labels, read from `TokenOutputs`."""
    return arguments.loss_type == ("nll" if fuses_head(arguments) else "chunked_nll")


@contextmanager
def accept_adapted_head(model):
    """Let TRL's `SFTTrainer` be made for a model with LoRA on its output head.

    trl 1.15.0: the constructor refuses it, since TRL's loss leaves the adapter out; hfkit's does not.
    """
    if hasattr(model, "get_base_model"):  # under an adapter
        model.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        vars(model).pop("get_output_embeddings", None)


def ignores_adapted_head(arguments_class: type) -> bool:
    """Return whether a trainer of TRL with these arguments cannot train LoRA on the output head.

    trl 1.15.0: trainers that compute log-probabilities of responses read the weights of the head, and refuse such an
    adapter in their constructor (`SFTTrainer` too, see `accept_adapted_head`). 1.12.0: they read logits.
    """
    is_of_trl = any(field.name == "router_aux_loss_coef" for field in fields(arguments_class))
    return is_of_trl and hasattr(import_module("trl.trainer.utils"), "add_fused_lm_head")


def fused_head_tile() -> tuple[int, int] | None:
    """Return the tokens and columns of the logits that TRL's trainers compute at once; None where they compute all.

    trl 1.15.0: trainers of pairs and of sampled responses do so, and SFT's with another loss than the plain one. The
    buffer has all columns, also for a smaller vocabulary. 1.12.0: they compute all logits.
    """
    columns = getattr(import_module("trl.trainer.utils"), "_CHUNKED_LOGPROB_CHUNK_SIZE", None)
    if columns is None or not hasattr(import_module("trl.trainer.utils"), "add_fused_lm_head"):
        return None
    return import_module("trl.kernels.chunked_logprob").TOKEN_CHUNK_SIZE, columns


@contextmanager
def accept_adapted_reference(trainer_class: type):
    """Let a trainer of TRL that compares pairs with a reference be made with one that has an adapter.

    trl 1.15.0: the constructor replaces the forward method of the reference with one that needs a model without an
    adapter around it.
    """
    module: Any = import_module(trainer_class.__module__)
    add_head = getattr(module, "add_fused_lm_head", None)
    if add_head is not None:

        def add_to_base(model, **options):
            add_head(without_adapter(model), **options)

        module.add_fused_lm_head = add_to_base
    try:
        yield
    finally:
        if add_head is not None:
            module.add_fused_lm_head = add_head


class TokenOutputs(NamedTuple):
    """The model outputs that TRL's `SFTTrainer` reads.

    trl 1.12.0: the loss, and sums over the labels for its metrics. 1.15.0: the values per label, which it sums itself.

    Attributes:
        log_probs: log-probabilities of the labels, or their sum.
        aux_loss: the router loss of a mixture of experts, if any.
    """

    loss: Any
    num_correct_tokens: Any
    entropy_sum: Any
    num_valid_tokens: Any
    log_probs: Any
    aux_loss: Any = None

    @property
    def is_top1(self):
        return self.num_correct_tokens

    @property
    def entropy(self):
        return self.entropy_sum

    @property
    def label_mask(self):
        return self.num_valid_tokens


class PairOutputs(NamedTuple):
    """The model outputs that TRL's `DPOTrainer` reads, of 2N sequences of T tokens.

    trl 1.12.0: logits. 1.15.0, which calls the model with `fused_lm_head=True`: values per label, 0 where it is -100.

    Attributes:
        logits: (2N, T, V).
        log_probs: of the labels, (2N, T - 1), as those that follow.
        entropy: of the distribution.
        mean_logits: the mean of the logits over the vocabulary.
        is_top1: whether the label has the highest logit.
        log_sum_sq_probs: the logarithm of the sum of the squared probabilities, which `use_weighting` needs.
    """

    logits: Any = None
    log_probs: Any = None
    entropy: Any = None
    mean_logits: Any = None
    is_top1: Any = None
    log_sum_sq_probs: Any = None
