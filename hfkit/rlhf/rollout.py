"""Sampling of replies, behind an interface that another engine can take the place of."""

from typing import Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


class Engine(Protocol):
    """Samples from the policy as it is now."""

    name: str
    """Named in the record."""

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """A reply to each prompt, as token ids up to and including the token that ends it, if it came."""


class GenerateEngine:
    """Transformers' `generate`, with a KV cache and no processor but the temperature.

    Whatever the model's own generation config says (a repetition penalty, top-k) would leak into what is sampled and
    not into the log-probabilities, and show as a negative KL.

    Args:
        model: the policy; put into eval mode to sample, so that checkpointing leaves the cache on.
        stops: token ids that end a reply.
        batch_size: rows sampled at once.
    """

    name = "transformers.generate"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stops: list[int],
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
    ):
        self.model, self.tokenizer, self.stops, self.batch_size = model, tokenizer, set(stops), batch_size
        self.config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
        )

    @torch.no_grad()
    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """Draws from torch's global generator."""
        self.model.eval()
        replies = []
        for start in range(0, len(prompts), self.batch_size):
            rows = {"input_ids": prompts[start : start + self.batch_size]}
            batch = self.tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(self.model.device)
            ids = self.model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=self.config
            )
            replies += [self.cut(reply) for reply in ids[:, batch["input_ids"].shape[1] :].tolist()]
        return replies

    def cut(self, reply: list[int]) -> list[int]:
        """A reply without the padding after its end."""
        ends = [place for place, token in enumerate(reply) if token in self.stops]
        return reply[: ends[0] + 1] if ends else reply
