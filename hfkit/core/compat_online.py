"""Private parts of TRL's GRPOTrainer and RLOOTrainer that hfkit replaces or reads; more are in `compat.py`.

`tests/core/test_compat_online.py` fails when upstream moves one.
"""

from importlib import import_module
from typing import Any

from hfkit.core.unwrap import without_adapter


class OwnRollouts:
    """A mixin for TRL's GRPOTrainer and RLOOTrainer: takes prompts as token ids, and calls hfkit's methods.

    trl 1.12.0 generates up to one EOS token, and trains on what follows any other stop token. It passes rows that are
    padded on the left to the model without their positions. Its checkpoints have neither the responses that later
    updates learn from nor the number of passes. `rollout_func` is experimental, and RLOOTrainer has none.
    """

    returns_logprobs = False
    """Whether TRL expects a pair of responses and their log-probabilities, which may be None."""

    def sample_replies(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return the token ids of a response to each prompt."""
        raise NotImplementedError

    def predict(self, measure, model, input_ids, attention_mask, logits_to_keep, **options):
        """Return log-probabilities, entropies and router loss, computed with TRL's method `measure`."""
        raise NotImplementedError

    def save_replies(self, folder: str) -> None:
        """Save the responses that later updates learn from into a checkpoint; every process calls it."""

    def load_replies(self, folder: str) -> None:
        """Load what `save_replies` saved."""

    def _tokenize_prompts(self, prompts):
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        replies = self.sample_replies(prompt_ids)
        return (replies, None) if self.returns_logprobs else replies

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **options
    ):
        measure = super()._get_per_token_logps_and_entropies
        return self.predict(measure, model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **options)

    def _save_rng_state(self, output_dir):
        self.save_replies(output_dir)
        super()._save_rng_state(output_dir)

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self.load_replies(checkpoint)


class StopTokens:
    """An object that equals each of several token ids."""

    def __init__(self, ids: list[int]):
        self.ids = frozenset(ids)

    def __eq__(self, other: object) -> bool:
        return other in self.ids

    def __hash__(self) -> int:
        return hash(self.ids)


class StopTokenizer:
    """The attributes of the tokenizer that TRL's trainers read after their constructor."""

    def __init__(self, stop_token_ids: list[int], pad_token_id: int):
        self.eos_token_id, self.pad_token_id = StopTokens(stop_token_ids), pad_token_id


def set_stop_tokens(trainer: Any, stop_token_ids: list[int]) -> None:
    """Make a trainer of TRL count each response that ends with one of these tokens as complete.

    trl 1.12.0: a response counts as truncated unless it ends with `_tokenizer.eos_token_id` or the pad token. 1.15.0:
    unless it ends with one of `eos_token_ids` or the pad token.
    """
    trainer._tokenizer = StopTokenizer(stop_token_ids, trainer.processing_class.pad_token_id)
    trainer.eos_token_ids = stop_token_ids


def prepare_reference(model: Any, temperature: float, in_float32: bool) -> None:
    """Let TRL's GRPO and RLOO compute log-probabilities with a model that their constructor did not get.

    trl 1.12.0: they need the logits only. 1.15.0: the constructor adds this function to its own models.

    Args:
        model: a Transformers model, with or without an adapter.
        temperature: by which the logits are divided.
        in_float32: whether the output head computes in float32.
    """
    add_head = getattr(import_module("trl.trainer.utils"), "add_fused_lm_head", None)
    if add_head is not None:
        base = without_adapter(model)
        add_head(base, temperature=temperature, cast_lm_head_to_fp32=in_float32)


def is_loss_of_step(trainer: Any) -> bool:
    """Return whether the loss of a batch is a share of the step's loss; otherwise `Trainer` divides it by the batches.

    trl 1.12.0: GRPO's is, and its trainer has a `compute_loss_func` for that; RLOO's is not. 1.15.0: an attribute.
    """
    known = getattr(trainer, "loss_is_scaled_for_ga", None)
    return trainer.compute_loss_func is not None if known is None else known


def sampled_batch(trainer: Any) -> tuple[int, list[dict[str, Any]] | None]:
    """Return the passes that a trainer of TRL has done, and its batches of responses; None before the first ones."""
    return trainer._step, trainer._buffered_inputs


def set_sampled_batch(trainer: Any, passes: int, batches: list[dict[str, Any]] | None) -> None:
    """Restore what `sampled_batch` returned."""
    trainer._step, trainer._buffered_inputs = passes, batches
