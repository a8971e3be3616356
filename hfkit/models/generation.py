"""Replies of a model, and how likely a model finds them: what rewards, KL and entropy are measured on."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import BatchEncoding, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from hfkit.core.device import random_state_kept
from hfkit.metrics.formulas import kl_per_reply, token_entropy

STRIDE = 16  # tokens sampled between two looks at which rows have ended
LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)  # of a cache whose rows can be taken out


def generate_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    stops: list[int] | None = None,
) -> list[list[int]]:
    """A reply to each prompt as token ids, up to and including the token that ends it if it came.

    Args:
        prompts: token ids, as `chat_template.encode_prompt` gives them.
        temperature: 0 takes the likeliest token; otherwise it is the only processor applied.
        seed: of the sampling; torch's own generators are left as they were.
        stops: token ids that end a reply; default the tokenizer's end of text.
    """
    with random_state_kept(model.device):
        torch.manual_seed(seed)
        return sample_replies(model, tokenizer, prompts, max_new_tokens, temperature, batch_size, stops)


@torch.no_grad()
def sample_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    stops: list[int] | None = None,
) -> list[list[int]]:
    """As `generate_replies`, drawing from torch's global generator."""
    config = sampling_config(tokenizer, max_new_tokens, temperature, stops or [tokenizer.eos_token_id])
    replies = []
    with plain_generation(model):
        for start in range(0, len(prompts), batch_size):
            rows = {"input_ids": prompts[start : start + batch_size]}
            batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
            replies += sample_until_ended(model, batch["input_ids"], batch["attention_mask"], max_new_tokens, config)
    return replies


def sample_until_ended(
    model: PreTrainedModel | PeftModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
    config: GenerationConfig,
) -> list[list[int]]:
    """Replies to one batch of prompts (B, P), padded on the left; a row that has ended leaves the batch.

    Lengths differ much: a batch that is kept whole computes as many tokens for each row as for the longest.
    """
    width, limit, stops = ids.shape[1], ids.shape[1] + max_new_tokens, torch.tensor(config.eos_token_id)
    replies = [[] for _ in ids]
    going, cache, stride = torch.arange(len(ids)), None, STRIDE
    while len(going) and ids.shape[1] < limit:
        config.max_new_tokens = min(stride, limit - ids.shape[1])
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=config,
            return_dict_in_generate=True,
        )
        mask = torch.nn.functional.pad(mask, (0, made.sequences.shape[1] - ids.shape[1]), value=1)
        ids, cache = made.sequences, made.past_key_values
        ended = torch.isin(ids[:, width:].cpu(), stops)
        for row, reply, ends in zip(going.tolist(), ids[:, width:].tolist(), ended.tolist(), strict=True):
            replies[row] = reply[: ends.index(True) + 1] if any(ends) else reply
        left = (~ended.any(1)).nonzero().flatten()
        going, rows = going[left], left.to(ids.device)
        ids, mask = ids[rows], mask[rows]
        if type(cache) is DynamicCache and all(type(layer) in LAYERS for layer in cache.layers):
            cache.batch_select_indices(rows)
        else:  # a recurrent state, say: the rest goes in one call, from a cache made anew
            cache, stride = None, max_new_tokens
    return replies


def sampling_config(
    tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float, stops: list[int]
) -> GenerationConfig:
    """How a reply is sampled: the temperature is the only processor, and 0 takes the likeliest token."""
    sampling = {"do_sample": True, "temperature": float(temperature), "top_k": 0, "top_p": 1.0} if temperature else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
        **({"do_sample": False} | sampling),
    )


@contextmanager
def plain_generation(model: PreTrainedModel | PeftModel):
    """Takes the model's own generation config away: `generate` fills what a config leaves open from it."""
    kept = model.generation_config
    set_generation_config(model, GenerationConfig())
    try:
        yield
    finally:
        set_generation_config(model, kept)


def set_generation_config(model: PreTrainedModel | PeftModel, config: GenerationConfig) -> None:
    """Sets it on the model and, under an adapter, on its base, which is the one that generates."""
    model.generation_config = config
    if hasattr(model, "get_base_model"):
        model.get_base_model().generation_config = config


def stop_ids(config: GenerationConfig, tokenizer) -> list[int]:
    """The token ids that end a reply: those of the model's generation config, and the tokenizer's EOS."""
    given = config.eos_token_id
    given = given if isinstance(given, list) else [] if given is None else [given]
    return [*dict.fromkeys([*given, tokenizer.eos_token_id])]


@dataclass
class Likelihood:
    """Per-token figures of one reply, float32 (tokens,)."""

    logprobs: torch.Tensor
    entropy: torch.Tensor


@torch.no_grad()
def likelihoods(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    replies: list[list[int]],
    temperature: float = 1.0,
    batch_size: int = 16,
) -> list[Likelihood]:
    """Log-probability of each token of each reply, and the entropy of the distribution it was taken from, in nats."""
    results = []
    for start in range(0, len(prompts), batch_size):
        pairs = list(zip(prompts[start : start + batch_size], replies[start : start + batch_size], strict=True))
        rows = {"input_ids": [prompt + reply for prompt, reply in pairs]}
        batch = tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(model.device)
        logits, first = logits_from(model, batch, min(len(prompt) for prompt, _ in pairs) - 1)
        for row, (prompt, reply) in enumerate(pairs):
            start = len(prompt) - 1 - first
            before = logits[row, start : start + len(reply)].float()
            said = (before / (temperature or 1.0)).log_softmax(-1)
            taken = said.gather(-1, torch.tensor(reply, device=said.device).unsqueeze(-1)).squeeze(-1)
            results.append(Likelihood(taken.cpu(), -(said.exp() * said).sum(-1).cpu()))
    return results


def logits_from(model: PreTrainedModel | PeftModel, batch: BatchEncoding, first: int) -> tuple[torch.Tensor, int]:
    """Logits of a padded batch (B, T) from a position on, (B, T - first, V), and the position of their first.

    Without a cache, and without those of what is only read: over a large vocabulary they are most of the memory.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    kept = ids.shape[1] - first
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    return logits, ids.shape[1] - logits.shape[1]  # a model that knows no `logits_to_keep` gives them all


def reply_kl(policy: list[Likelihood], reference: list[Likelihood]) -> float:
    """KL of a policy to a reference on replies that it sampled, in nats per reply (see `formulas.kl_per_reply`)."""
    return kl_per_reply(*([float(one.logprobs.sum()) for one in model] for model in (policy, reference)))


def mean_entropy(said: list[Likelihood]) -> float:
    """Entropy over the tokens of all replies, in nats per token (see `formulas.token_entropy`)."""
    return token_entropy([float(one.entropy.sum()) for one in said], [len(one.entropy) for one in said])
