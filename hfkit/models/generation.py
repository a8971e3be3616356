"""Samples responses from a model, and computes the log-probabilities and entropies of their tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from peft import PeftModel
from transformers import BatchEncoding, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from hfkit.core.compat import cache_name, forget_offsets
from hfkit.core.device import keep_random_state
from hfkit.core.unwrap import without_adapter
from hfkit.data.chat_template import turn_end_ids
from hfkit.data.forms import IGNORE
from hfkit.models.micro_batches import batches_by_length, call_tokens
from hfkit.models.token_predictions import logprob_and_entropy, measure_predictions

CACHE_NAME = cache_name(BaseModelOutputWithPast)
"""The name of the cache in the arguments and outputs of models."""
ROUTER_LOSS = "output_router_logits"
"""The field of a mixture's config that adds the loss of its router to the outputs; TRL's SFT sets it."""
STRIDE = 16  # tokens sampled before the rows that have ended leave the batch
LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)  # layers of a cache from which rows can be selected


class Engine(Protocol):
    """Samples responses from a model; the available engines are in `engines.py`."""

    @property
    def name(self) -> str:
        """The name for the record of a run."""

    def sync(self) -> None:
        """Update to the model's current weights; called after each of its updates, and before the first sampling."""

    def sample(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
        stop_token_ids: list[int] | None = None,
    ) -> list[list[int]]:
        """Return a response to each prompt as in `generate_replies`, drawn from torch's global generator."""

    def release(self) -> None:
        """Free memory that is not needed before the next `sync`: the model is about to be updated."""


def generate_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    stop_token_ids: list[int] | None = None,
    engine: Engine | None = None,
) -> list[list[int]]:
    """Return a response to each prompt as token ids, up to and including the stop token, if any.

    Args:
        prompts: token ids, as `chat_template.encode_prompt` returns them.
        temperature: 0: greedy; otherwise temperature is the only logits processor.
        seed: seed of the sampling; torch's global generators are restored.
        stop_token_ids: tokens that end a response; default: the EOS and the end of the turn.
        engine: samples from the weights of its last `sync`; default: `sample_replies`.
    """
    sample = engine.sample if engine else partial(sample_replies, model, tokenizer)
    with keep_random_state(model.device):
        torch.manual_seed(seed)
        return sample(prompts, max_new_tokens, temperature, batch_size, stop_token_ids)


@torch.no_grad()
def sample_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    stop_token_ids: list[int] | None = None,
) -> list[list[int]]:
    """Return responses from Transformers' `generate` with a dynamic cache, drawn from torch's global generator."""
    config = sampling_config(tokenizer, max_new_tokens, temperature, stop_token_ids or turn_end_ids(tokenizer))
    replies = []
    with without_generation_defaults(model):
        for batch in padded_batches(model, tokenizer, prompts, batch_size):
            replies += sample_until_ended(model, batch["input_ids"], batch["attention_mask"], max_new_tokens, config)
    return replies


def padded_batches(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], batch_size: int
) -> Iterator[BatchEncoding]:
    """Yield prompts in batches on the model's device, padded on the left."""
    for start in range(0, len(prompts), batch_size):
        rows = {"input_ids": prompts[start : start + batch_size]}
        yield tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)


def sample_until_ended(
    model: PreTrainedModel | PeftModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
    config: GenerationConfig,
) -> list[list[int]]:
    """Return responses to one batch of prompts (B, P), padded on the left; rows that have ended leave the batch.

    Lengths of responses vary widely: a whole batch would compute as many tokens for each row as for the longest. Equal
    prompts are computed once.
    """
    width, limit, stop_token_ids = ids.shape[1], ids.shape[1] + max_new_tokens, torch.tensor(config.eos_token_id)
    replies = [[] for _ in ids]
    running, cache, stride = torch.arange(len(ids)), cache_of_repeated(model, ids, mask, config), STRIDE
    while len(running) and ids.shape[1] < limit:
        config.max_new_tokens = min(stride, limit - ids.shape[1])
        forget_offsets(model)
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            return_dict_in_generate=True,
            synced_gpus=False,  # each process has whole weights, and its own lengths
            **{CACHE_NAME: cache},
        )
        mask = torch.nn.functional.pad(mask, (0, made.sequences.shape[1] - ids.shape[1]), value=1)
        ids, cache = made.sequences, getattr(made, CACHE_NAME)
        ended = torch.isin(ids[:, width:].cpu(), stop_token_ids)
        for row, reply in zip(running.tolist(), ids[:, width:].tolist(), strict=True):
            replies[row] = up_to_stop(reply, config.eos_token_id)
        unfinished = (~ended.any(1)).nonzero().flatten()
        running, rows = running[unfinished], unfinished.to(ids.device)
        ids, mask = ids[rows], mask[rows]
        if can_select_rows(cache):
            cache.batch_select_indices(rows)
        else:  # for example a recurrent state: one call generates the rest, with a new cache
            cache, stride = None, max_new_tokens
    return replies


def can_select_rows(cache: object) -> bool:
    """Return whether rows can be selected from a cache, also several times."""
    return type(cache) is DynamicCache and all(type(layer) in LAYERS for layer in cache.layers)


def cache_of_repeated(
    model: PreTrainedModel | PeftModel, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig
) -> DynamicCache | None:
    """Return a cache of prompts (B, P) without their last tokens, in which each different prompt was computed once.

    None if that would not save the time of a call.
    """
    different: dict[tuple[int, ...], int] = {}
    rows = [different.setdefault(tuple(row), len(different)) for row in torch.cat([ids, mask], 1).tolist()]
    saved = (len(rows) - len(different)) * (ids.shape[1] - 1)
    if saved < call_tokens(model) or int(mask.sum(1).min()) < 2:  # generation needs a token of each row
        return None
    firsts = [rows.index(number) for number in different.values()]
    one_token = GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=config.pad_token_id)
    made = model.generate(
        input_ids=ids[firsts, :-1],
        attention_mask=mask[firsts, :-1],
        generation_config=one_token,
        return_dict_in_generate=True,
        synced_gpus=False,
    )
    cache = getattr(made, CACHE_NAME)
    if not can_select_rows(cache):
        return None
    cache.batch_select_indices(torch.tensor(rows, device=ids.device))
    return cache


def up_to_stop(reply: list[int], stop_token_ids: list[int]) -> list[int]:
    """Return token ids up to and including the first stop token."""
    return reply[: next((index + 1 for index, token in enumerate(reply) if token in stop_token_ids), len(reply))]


def sampling_config(
    tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float, stop_token_ids: list[int]
) -> GenerationConfig:
    """Return a generation config whose only logits processor is the temperature; 0: greedy."""
    sampling = {"do_sample": True, "temperature": float(temperature), "top_k": 0, "top_p": 1.0} if temperature else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_token_ids,
        pad_token_id=tokenizer.pad_token_id,
        **({"do_sample": False} | sampling),
    )


@contextmanager
def without_generation_defaults(model: PreTrainedModel | PeftModel):
    """Remove the model's generation config, which `generate` uses for settings that another config leaves unset.

    The loss of a mixture's router is turned off too: transformers 5.24 cannot compute it for a batch with a cache.
    """
    kept, config = model.generation_config, model.config.get_text_config()
    adds_router_loss = getattr(config, ROUTER_LOSS, False)
    set_generation_config(model, GenerationConfig())
    if adds_router_loss:
        setattr(config, ROUTER_LOSS, False)
    try:
        yield
    finally:
        set_generation_config(model, kept)
        if adds_router_loss:
            setattr(config, ROUTER_LOSS, True)


def set_generation_config(model: PreTrainedModel | PeftModel, config: GenerationConfig) -> None:
    """Set a generation config on a model and, under an adapter, on its base, which generates."""
    model.generation_config = without_adapter(model).generation_config = config


def stop_ids(config: GenerationConfig, tokenizer) -> list[int]:
    """Return the token ids that end a response: those of the generation config, the EOS, and the end of the turn."""
    ids = config.eos_token_id
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return [*dict.fromkeys([*ids, *turn_end_ids(tokenizer)])]


@dataclass
class Likelihood:
    """The log-probability and entropy of each token of one response, in nats, float32 (tokens,)."""

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
    """Return the log-probability of each token of each response, and the entropy of its distribution."""
    rows = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
    results: list = [None] * len(rows)
    lengths = [len(row) for row in rows]
    measure = partial(logprob_and_entropy, temperature=temperature or 1.0)
    for part in batches_by_length(lengths, batch_size, call_tokens(model)):
        ids = {"input_ids": [rows[index] for index in part]}
        batch = tokenizer.pad(ids, padding_side="right", return_tensors="pt").to(model.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        targets = torch.full_like(inputs["input_ids"], IGNORE)
        for row, index in enumerate(part):  # the token before a response predicts its first token
            start = len(prompts[index]) - 1
            targets[row, start : start + len(replies[index])] = torch.tensor(replies[index])
        counts = [len(replies[index]) for index in part]
        found = (one.cpu().split(counts) for one in measure_predictions(model, inputs, targets, measure))
        for index, logprobs, entropy in zip(part, *found, strict=True):
            results[index] = Likelihood(logprobs, entropy)
    return results
