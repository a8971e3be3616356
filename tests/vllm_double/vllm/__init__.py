"""A double of vLLM for machines without a GPU: what hfkit and TRL's client call, on a small model of Transformers.

It has vLLM's rules, not its speed: settings that a request leaves out come from the model's generation config, a prefix
cache survives new weights, sleep discards weights, `LLM` sets torch's seed, and of the allocator's settings it reads
`PYTORCH_CUDA_ALLOC_CONF` alone, to turn expandable segments off in its memory pool. Some architectures have no class
in it. The variable VLLM_DOUBLE_RELEASE sets its version: 0.28 moved the functions that send weights.
"""

import os

import torch

from vllm.sampling import Sampler
from vllm.sampling_params import SamplingParams

__all__ = ["LLM", "ModelRegistry", "RequestOutput", "SamplingParams"]
__version__ = os.environ.get("VLLM_DOUBLE_RELEASE", "0.27.1")


class Registered:
    """Where the class of an architecture is."""

    def __init__(self, module_name: str):
        self.module_name = f"vllm.model_executor.models.{module_name}"


class ModelRegistry:
    """The class that runs an architecture; others are run by their classes in Transformers, if at all."""

    models = {"LlamaForCausalLM": Registered("llama"), "Olmo2ForCausalLM": Registered("transformers")}


class RequestOutput:
    """A reply of an `LLM`."""

    def __init__(self, prompt: list[int], reply: list[int]):
        self.prompt_token_ids = prompt
        self.outputs = [type("CompletionOutput", (), {"token_ids": tuple(reply)})()]


class LLM:
    """vLLM in this process."""

    made: list["LLM"] = []

    def __init__(self, *, model, dtype, gpu_memory_utilization, max_model_len, seed, **options):
        assert options == {"enable_sleep_mode": True, "distributed_executor_backend": "external_launcher"}, options
        torch.manual_seed(seed)
        self.sampler = Sampler(model, getattr(torch, dtype))
        self.settings = {"memory": gpu_memory_utilization, "tokens": max_model_len}
        self.allocator = os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
        self.is_asleep, self.calls = False, []
        LLM.made.append(self)

    def sleep(self, level: int = 1) -> None:
        assert level == 2 and not self.is_asleep
        self.calls.append("sleep")
        self.is_asleep = True
        for parameter in self.sampler.model.parameters():
            parameter.data.fill_(float("nan"))

    def wake_up(self, tags=None) -> None:
        assert self.is_asleep
        self.calls.append("wake_up")
        self.is_asleep = False

    def collective_rpc(self, method: str, kwargs: dict) -> list:
        assert method == "reload_weights" and not self.is_asleep
        return [self.sampler.load_weights(**kwargs)]

    def reset_prefix_cache(self) -> bool:
        self.sampler.prefixes.clear()
        return True

    def generate(self, prompts, sampling_params, use_tqdm=True) -> list[RequestOutput]:
        assert not self.is_asleep
        given = [one["prompt_token_ids"] for one in prompts]
        pairs = zip(given, sampling_params, strict=True)
        return [RequestOutput(prompt, self.sampler.reply(prompt, one)) for prompt, one in pairs]
