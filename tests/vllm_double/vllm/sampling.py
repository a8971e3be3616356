"""How the double samples, and how it takes over weights."""

import torch
from transformers import AutoModelForCausalLM

from vllm.sampling_params import SamplingParams


class Sampler:
    """A model that samples, and that has a prefix cache: the logits after each prompt."""

    def __init__(self, path: str, dtype: torch.dtype):
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        self.prefixes: dict[tuple[int, ...], torch.Tensor] = {}

    def load_weights(self, weights_iterator) -> None:
        """Take over weights by the names of the model's files; the prefix cache stays."""
        own = dict(self.model.named_parameters())
        for name, weight in weights_iterator:
            if own[name].shape != weight.shape:
                raise ValueError(f"{name}: {tuple(weight.shape)} for {tuple(own[name].shape)}")
            own[name].data.copy_(weight)

    @torch.no_grad()
    def reply(self, prompt: list[int], sampling: SamplingParams) -> list[int]:
        """Return a reply to a prompt."""
        if (sampling.top_p, sampling.min_p, sampling.repetition_penalty) != (1.0, 0.0, 1.0) or sampling.top_k > 0:
            raise ValueError("the double knows no logits processor but the temperature")
        generator = torch.Generator().manual_seed(sampling.seed) if sampling.seed is not None else None
        stop_token_ids = {*sampling.stop_token_ids}
        if not sampling.ignore_eos:
            own = self.model.generation_config.eos_token_id
            stop_token_ids |= {*own} if isinstance(own, list) else {own}
        reply: list[int] = []
        key = tuple(prompt)
        if key not in self.prefixes:
            self.prefixes[key] = self.logits(prompt)
        logits = self.prefixes[key]
        while len(reply) < sampling.max_tokens:
            if sampling.temperature:
                chances = (logits / sampling.temperature).softmax(-1)
                reply.append(int(torch.multinomial(chances, 1, generator=generator)))
            else:
                reply.append(int(logits.argmax()))
            if reply[-1] in stop_token_ids:
                break
            logits = self.logits(prompt + reply)
        return reply

    def logits(self, ids: list[int]) -> torch.Tensor:
        """Return the float32 logits of the token that follows."""
        return self.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
