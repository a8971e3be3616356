"""Private parts of TRL's GRPOTrainer and RLOOTrainer that hfkit replaces, beside those in `compat.py`.

`tests/core/test_compat_online.py` fails when upstream moves one.
"""

from typing import Any


class OwnRollouts:
    """A mixin for TRL's GRPOTrainer and RLOOTrainer: its prompts are token ids, its replies come from `sample_replies`.

    trl 1.12.0: `generate` would stop at one EOS token, and what follows another stop token would be trained on. The one
    way in, `rollout_func`, is experimental, and RLOOTrainer has none.
    """

    samples_logprobs = False
    """Whether TRL takes the log-probabilities of an engine beside its replies; hfkit has none, since its own count."""

    def sample_replies(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return a reply to each prompt; token ids."""
        raise NotImplementedError

    def _tokenize_prompts(self, prompts):
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        replies = self.sample_replies(prompt_ids)
        return (replies, None) if self.samples_logprobs else replies


class StopTokens:
    """Equals each of several token ids.

    trl 1.12.0: a reply counts as truncated unless it ends with `trainer._tokenizer.eos_token_id` or the pad token.
    """

    def __init__(self, ids: list[int]):
        self.ids = frozenset(ids)

    def __eq__(self, other: object) -> bool:
        return other in self.ids

    def __hash__(self) -> int:
        return hash(self.ids)


class StopTokenizer:
    """What TRL's trainers read of their tokenizer once they are made: the ids of stop tokens and of padding."""

    def __init__(self, stop_token_ids: list[int], pad_token_id: int):
        self.eos_token_id, self.pad_token_id = StopTokens(stop_token_ids), pad_token_id


def set_stop_tokens(trainer: Any, stop_token_ids: list[int]) -> None:
    """Make a trainer of TRL count each reply that ends with one of these tokens as complete."""
    trainer._tokenizer = StopTokenizer(stop_token_ids, trainer.processing_class.pad_token_id)


def logged_since(trainer: Any, before: dict[str, int]) -> dict[str, float]:
    """Return the mean of each metric that a trainer of TRL has collected in training since `logged_counts`.

    trl 1.12.0: the metrics of an update are in `_metrics` only, until they are logged.
    """
    found = {name: values[before.get(name, 0) :] for name, values in trainer._metrics["train"].items()}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def add_logged(trainer: Any, metrics: dict[str, float]) -> None:
    """Add metrics to those that a trainer of TRL logs next."""
    for name, value in metrics.items():
        trainer._metrics["train"][name].append(value)


def sampled_batch(trainer: Any) -> tuple[int, Any]:
    """Return how many forward passes a trainer of TRL has done, and the batch of replies that it is at; None: none yet.

    trl 1.12.0: a checkpoint has neither, so a run resumed within a batch would sample anew.
    """
    return trainer._step, trainer._buffered_inputs


def set_sampled_batch(trainer: Any, step: int, batch: Any) -> None:
    """Set what `sampled_batch` returned."""
    trainer._step, trainer._buffered_inputs = step, batch
