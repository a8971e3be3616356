"""Sampling of replies, behind an interface that another engine can take the place of."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.models.adapters import temporarily_merged
from hfkit.models.generation import sample_replies
from hfkit.rlhf.forward import autocast


class Engine(Protocol):
    """Samples from the policy as it is now."""

    name: str
    """Named in the record."""

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """A reply to each prompt, as token ids up to and including the token that ends it, if it came."""


@dataclass
class GenerateEngine:
    """Transformers' `generate`, with a KV cache and no processor but the temperature.

    Whatever the model's own generation config says (a repetition penalty, top-k) would leak into what is sampled and
    not into the log-probabilities: the update would be off policy from the first.

    Args:
        model: the policy; put into eval mode to sample, so that checkpointing leaves the cache on.
        stops: token ids that end a reply.
        batch_size: rows sampled at once.
        merge: whether to sample with the adapter merged into copies of the base's matrices: a token then takes a third
            of the operations, and the sampling the memory of the copies.
        bf16: whether to sample under bf16 autocast, merged into bfloat16: then the replies come from the policy to
            within bfloat16's rounding, and the log-probabilities that are learnt from are computed anew.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stops: list[int]
    max_new_tokens: int
    temperature: float
    batch_size: int
    merge: bool = False
    bf16: bool = False

    @property
    def name(self) -> str:
        return "transformers.generate" + (", bf16" if self.bf16 else "") + (", adapter merged" if self.merge else "")

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """Draws from torch's global generator."""
        self.model.eval()
        merged = temporarily_merged(self.model, self.bf16) if self.merge else nullcontext()
        with merged, autocast(self, self.model.device):  # merged outside of autocast, in float32
            return sample_replies(
                self.model,
                self.tokenizer,
                prompts,
                self.max_new_tokens,
                self.temperature,
                self.batch_size,
                self.stops,
            )
