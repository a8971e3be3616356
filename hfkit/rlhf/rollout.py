"""Rollout engines: how replies are sampled from the policy. A further engine implements `RolloutEngine`."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from hfkit.models.adapters import temporarily_merged
from hfkit.models.generation import sample_replies
from hfkit.rlhf.forward import Model, autocast


class RolloutEngine(Protocol):
    """Samples from the policy with its current weights; `PPOTrainer(engine=...)` takes any implementation."""

    @property
    def name(self) -> str:
        """The name for the run's record."""

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return a reply to each prompt: token ids up to and including the stop token, if there is one."""


@dataclass
class GenerateEngine:
    """Samples with Transformers' `generate`: a KV cache, and the temperature as the only logits processor.

    Processors from the model's own generation config (a repetition penalty, top-k) would change what is sampled and not
    the log-probabilities: the update would be off-policy from the start.

    Args:
        model: the policy; it is put into eval mode to sample, so that gradient checkpointing leaves the cache on.
        merge: whether to sample with the adapter merged into copies of the base's matrices: a token then takes a third
            of the operations, and sampling takes the memory of the copies.
        bf16: whether to sample under bf16 autocast, merged into bfloat16: the replies then come from the policy to
            within bfloat16's rounding, and the log-probabilities to learn from are computed separately.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: list[int]
    max_new_tokens: int
    temperature: float
    batch_size: int
    merge: bool = False
    bf16: bool = False

    @property
    def name(self) -> str:
        return "transformers.generate" + (", bf16" if self.bf16 else "") + (", adapter merged" if self.merge else "")

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """Draw replies from torch's global generator."""
        model = self.model.eval()
        merge = self.merge and isinstance(model, PeftModel)
        merged = temporarily_merged(model, self.bf16) if merge else nullcontext()
        with merged, autocast(self.bf16, model.device):  # merged outside of autocast, in float32
            limits = (self.max_new_tokens, self.temperature, self.batch_size, self.stop_token_ids)
            return sample_replies(model, self.tokenizer, prompts, *limits)
