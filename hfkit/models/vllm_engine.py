"""Samples responses with vLLM from a copy of the policy's weights: on a server, or in this process on the same GPU.

vLLM holds the whole model with the adapter merged. Its responses match the policy up to the rounding of its dtype; PPO
learns from log-probabilities of the policy itself.
"""

import os
import socket
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from accelerate.utils import patch_environment
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.core.console import is_main_process
from hfkit.core.device import device, keep_random_state
from hfkit.core.errors import HfkitError, reason
from hfkit.core.unwrap import without_adapter
from hfkit.data.chat_template import turn_end_ids
from hfkit.models.engine_errors import EngineError, agree_on_failure
from hfkit.models.generation import up_to_stop
from hfkit.models.named_weights import NamedWeight, named_weights, naming_fault
from hfkit.models.vllm_server import Server

ONLY_TEMPERATURE = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Neutral settings, all explicit: vLLM takes missing ones from the model's generation config."""

ALLOCATOR, OLD_ALLOCATOR = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
"""The settings of torch's GPU allocator, since torch 2.9 and before."""


class Backend(Protocol):
    """A running vLLM."""

    def load(self, weights: list[NamedWeight]) -> None:
        """Replace the weights to sample with."""

    def sample(self, prompts: list[list[int]], seeds: list[int], sampling: dict[str, Any], at_once: int) -> list:
        """Return the token ids of a response to each prompt."""

    def free(self) -> None:
        """Free the GPU's memory until the next `load`."""


@dataclass
class VLLMEngine:
    """Samples with vLLM; only temperature and stop tokens are set.

    A seed reproduces responses only as far as vLLM does: its rounding depends on which responses it computes together.

    Args:
        backend: a `Server`, to which all processes send prompts and the main process sends weights; or a `Colocated`.
        bf16: whether merged matrices are bfloat16, rounded at random (see `merged_copies.round_randomly`).

    Raises:
        HfkitError: vLLM cannot load the weights of this model.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    backend: Backend
    bf16: bool = False

    def __post_init__(self) -> None:
        self.bf16 = self.bf16 or self.model.dtype == torch.bfloat16
        if fault := naming_fault(self.model, self.bf16):
            raise HfkitError(f"vLLM cannot sample from this model: {fault}: set rollout_engine: generate")

    @property
    def name(self) -> str:
        """The name for the record of a run."""
        return f"vllm.{'server' if isinstance(self.backend, Server) else 'colocate'}{', bf16' * self.bf16}"

    def sync(self) -> None:
        """Send the current weights; every process must call it. One random number is drawn for rounding.

        Raises:
            EngineError: in all processes, if one of them failed.
        """
        seed = int(torch.randint(2**31, ()))
        is_shared = isinstance(self.backend, Server)
        with agree_on_failure(), self.without_autocast(), keep_random_state(self.model.device):
            torch.manual_seed(seed)
            if is_main_process() or not is_shared:
                self.backend.load(named_weights(self.model, self.bf16))

    def sample(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
        stop_token_ids: list[int] | None = None,
    ) -> list[list[int]]:
        """Return responses as in `Engine.sample`, each with a seed from torch's global generator.

        Raises:
            EngineError: vLLM failed, or returned invalid responses.
        """
        stop_token_ids = stop_token_ids or turn_end_ids(self.tokenizer)
        sampling = {**ONLY_TEMPERATURE, "max_tokens": max_new_tokens, "temperature": float(temperature)}
        sampling |= {"stop_token_ids": stop_token_ids, "ignore_eos": True}  # vLLM's EOS may differ
        seeds = torch.randint(2**31, (len(prompts),)).tolist()
        with self.without_autocast():
            replies = self.backend.sample(prompts, seeds, sampling, batch_size)
        vocabulary = without_adapter(self.model).config.get_text_config().vocab_size
        for reply in replies:
            if fault := reply_fault(reply, max_new_tokens, vocabulary):
                raise EngineError(f"vLLM returned an invalid response: {fault}")
        return [up_to_stop(reply, stop_token_ids) for reply in replies]

    def release(self) -> None:
        """Free vLLM's GPU memory if it runs in this process."""
        self.backend.free()

    def without_autocast(self) -> torch.autocast:
        """Return a context without the caller's autocast, for weights and for vLLM in this process."""
        return torch.autocast(self.model.device.type, enabled=False)


def reply_fault(reply: Any, max_new_tokens: int, vocabulary: int) -> str | None:
    """Return why a value is not a valid response, or None."""
    if not isinstance(reply, list) or not 0 < len(reply) <= max_new_tokens:
        return f"expected 1 to {max_new_tokens} token ids"
    if not all(type(token) is int and 0 <= token < vocabulary for token in reply):
        return f"expected token ids from 0 to {vocabulary - 1}"
    return None


class Colocated:
    """vLLM in this process, on its GPU: active from `load` to `free`; otherwise its memory is free.

    Args:
        llm: vLLM's `LLM`, with sleep mode.
    """

    def __init__(self, llm: Any):
        self.llm, self.is_asleep = llm, False

    def load(self, weights: list[NamedWeight]) -> None:
        """Wake up, and replace the weights, one at a time."""
        if self.is_asleep:
            torch.cuda.empty_cache()  # vLLM maps its memory itself; since 0.27 it does this too
            self.llm.wake_up()
            self.is_asleep = False
        # not `model.load_weights`: for its kernels, vLLM may have changed the layout of what it loaded before
        named = ((one.name, one.value()) for one in weights)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
        self.llm.reset_prefix_cache()

    def sample(self, prompts: list[list[int]], seeds: list[int], sampling: dict[str, Any], at_once: int) -> list:
        """Return the token ids of a response to each prompt; vLLM chooses how many it computes at once."""
        from vllm import SamplingParams  # noqa: PLC0415 - an optional package

        each = [SamplingParams(**sampling, seed=seed, detokenize=False) for seed in seeds]
        given = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [[*answer.outputs[0].token_ids] for answer in self.llm.generate(given, each, use_tqdm=False)]

    def free(self) -> None:
        """Discard weights and cache."""
        if not self.is_asleep:
            self.llm.sleep(level=2)
            self.is_asleep = True


@cache
def colocated(path: str, dtype: str, memory: float, tokens: int | None) -> Colocated:
    """Return vLLM on this process's GPU, loaded from the files of a base, once per process.

    Args:
        memory: share of the GPU's memory for weights and KV cache.
        tokens: tokens of the longest prompt with its response; None: the model's context length.

    Raises:
        HfkitError: vLLM cannot start.
    """
    from vllm import LLM  # noqa: PLC0415 - it takes seconds

    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    launched |= {"MASTER_PORT": str(free_port())}
    # vLLM before 0.31 reads only the old name; its memory pool excludes expandable segments
    if ALLOCATOR in os.environ:
        launched[OLD_ALLOCATOR] = os.environ[ALLOCATOR]
    unset = {name: value for name, value in launched.items() if name not in os.environ}
    rank = int(os.environ.get("RANK", "0"))
    try:
        with patch_environment(**unset), keep_random_state(device()):  # `LLM` sets torch's seed
            llm = LLM(
                model=path,
                dtype=dtype,
                gpu_memory_utilization=memory,
                max_model_len=tokens,
                enable_sleep_mode=True,
                distributed_executor_backend="external_launcher",  # in this process
                seed=rank,
            )
    except Exception as error:  # vLLM raises errors of any type
        raise HfkitError(f"vLLM cannot start in this process: {reason(error)}") from error
    return Colocated(llm)


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
