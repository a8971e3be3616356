"""Rollouts: the engine that samples from the policy, with the adapter merged or not, and the memory they need."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hfkit.core.console import say
from hfkit.core.device import free_memory, keep_random_state
from hfkit.core.interrupts import droppable
from hfkit.core.unwrap import without_adapter
from hfkit.models.engine_errors import agree_on_failure
from hfkit.models.engines import ENGINES
from hfkit.models.generation import Engine
from hfkit.models.merged_copies import MergedCopies, can_merge
from hfkit.models.model_config import attention_widths
from hfkit.models.quantization import quantized_layers
from hfkit.models.vllm_engine import Backend, VLLMEngine, colocated
from hfkit.models.vllm_server import Server
from hfkit.rlhf.arguments import OnlineArguments, OnlinePolicyArguments, SamplingArguments
from hfkit.rlhf.forward import Model
from hfkit.rlhf.sharding import whole_weights


@dataclass
class Rollouts:
    """Samples responses of the policy with an engine, which gets the policy's weights each time."""

    engine: Engine
    policy: Model
    args: OnlinePolicyArguments
    stop_token_ids: list[int]

    def sample(self, prompts: list[list[int]]) -> list[list[int]]:
        """Sample a response to each prompt with torch's global generator, then free the engine's memory for the update.

        The policy is put into eval mode, in which gradient checkpointing does not disable the KV cache. After a signal
        the list is empty, and `requested` is set.

        Raises:
            EngineError: in all processes, if the engine of one of them failed.
        """
        self.policy.eval()
        with whole_weights(self.policy):
            self.engine.sync()
            try:
                limits = (self.args.response_length, self.args.temperature, self.args.local_rollout_forward_batch_size)
                with agree_on_failure(), droppable():  # no process waits for another while it samples
                    return self.engine.sample(prompts, *limits, self.stop_token_ids)
                return []
            finally:
                self.engine.release()


def policy_engine(
    args: OnlinePolicyArguments,
    policy: Model,
    tokenizer: PreTrainedTokenizerBase,
    trained: list[Model],
    prompt_tokens: int,
) -> Engine:
    """Return the engine of a config, with merged copies if the config sets them and they are possible and fit.

    Args:
        trained: the models whose optimizer states are not yet in memory.
        prompt_tokens: of the longest prompt.
    """
    if args.rollout_engine == "vllm":
        return vllm_engine(args, policy, tokenizer)
    engine = ENGINES[args.rollout_engine]
    bf16 = bool(args.bf16)
    autocast = bf16 and engine.autocasts
    copies = None
    if args.merge_in_rollouts and isinstance(policy, PeftModel):
        bf16 = bf16 and (autocast or policy.dtype.itemsize == 2)
        copies = MergedCopies(policy, bf16) if can_merge(policy, bf16) else None
    if copies and quantized_layers(policy):
        rows = min(args.local_rollout_forward_batch_size, args.local_batch_size or 1)
        states = sum(2 * p.nbytes for model in trained for p in model.parameters() if p.requires_grad)
        tokens = prompt_tokens + args.response_length
        needed = states + generation_bytes(policy.config, rows, tokens, copies.dtype.itemsize)
        copies = copies_that_fit(copies, needed, free_memory(policy.device))
    return engine(policy, tokenizer, copies, autocast)


def vllm_engine(args: OnlinePolicyArguments, model: Model, tokenizer: PreTrainedTokenizerBase) -> VLLMEngine:
    """Return the engine that samples from a model with vLLM; all engines of a process share one vLLM."""
    backend: Backend
    if args.vllm_mode == "server":
        backend = Server(args.vllm_server_base_url, args.vllm_server_timeout, args.vllm_group_port)
    else:
        base = without_adapter(model)
        dtype = "bfloat16" if args.bf16 else str(base.dtype).removeprefix("torch.")
        tokens = args.max_prompt_length and args.max_prompt_length + args.response_length
        backend = colocated(base.name_or_path, dtype, args.vllm_gpu_memory_utilization, tokens)
    return VLLMEngine(model, tokenizer, backend, bool(args.bf16))


@contextmanager
def engine_of(args: SamplingArguments, model: Model, tokenizer: PreTrainedTokenizerBase) -> Iterator[Engine]:
    """Yield the engine of a config for a model that is not trained, without merged copies, then free its memory.

    Every process must enter it. The random state is not changed.

    Raises:
        EngineError: in all processes, if the engine of one of them failed.
    """
    if not isinstance(args, OnlineArguments) or args.rollout_engine != "vllm":
        with agree_on_failure():
            yield ENGINES[args.rollout_engine](model, tokenizer)
        return
    engine = vllm_engine(args, model, tokenizer)
    with keep_random_state(model.device):
        torch.manual_seed(args.seed)
        engine.sync()
    try:
        with agree_on_failure():
            yield engine
    finally:
        engine.release()


def copies_that_fit(copies: MergedCopies, needed: int, free: int) -> MergedCopies | None:
    """Return copies of a quantized base if they fit into the free memory, else None; print the choice and why.

    Args:
        needed: bytes that sampling takes in addition.
    """
    size, dtype = copies.bytes / 1e9, str(copies.dtype).removeprefix("torch.")
    room = f"{size:.2f} GB; {free / 1e9:.2f} GB are free, sampling takes {needed / 1e9:.2f} GB"
    if copies.bytes + needed <= free:
        say(f"rollouts use {dtype} copies of the 4-bit base with the adapter merged, until each update ({room})")
        return copies
    say(f"rollouts use the 4-bit base and the adapter: merged {dtype} copies do not fit ({room})")
    return None


def generation_bytes(config: PreTrainedConfig, rows: int, tokens: int, itemsize: int) -> int:
    """Return the bytes of keys and values of `rows` of `tokens`, and of float32 logits and probabilities of a token.

    `hfkit plan` also counts the activations of the prompts (`training/memory/`).
    """
    _, _, key = attention_widths(config)
    config = config.get_text_config()
    return rows * (tokens * config.num_hidden_layers * 2 * key * itemsize + 4 * config.vocab_size * 4)
