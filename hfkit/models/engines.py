"""Samples responses with engines of Transformers, by the names of `rollout_engine`; to add one, extend ENGINES."""

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from transformers import (
    CompileConfig,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StaticCache,
)

from hfkit.core.compat import compile_everywhere, page_tokens, without_autocast_wrapper
from hfkit.core.device import keep_random_state
from hfkit.core.unwrap import without_adapter
from hfkit.data.chat_template import turn_end_ids
from hfkit.models.engine_errors import EngineError
from hfkit.models.generation import (
    CACHE_NAME,
    padded_batches,
    sample_replies,
    sampling_config,
    up_to_stop,
    without_generation_defaults,
)
from hfkit.models.merged_copies import MergedCopies

CACHE_STEP = 128  # tokens: the length of a static cache is a multiple, so that few lengths are compiled


@dataclass
class GenerateEngine:
    """Samples with Transformers' `generate`: the temperature is the only logits processor.

    Processors in the model's generation config (repetition penalty, top-k) would change the sampled tokens but not the
    log-probabilities: the update would be off-policy from the start.

    Args:
        model: in eval mode, so that gradient checkpointing leaves the cache on.
        copies: copies with the adapter merged, to sample from: a token takes at most half of the operations.
        bf16: whether to sample under bf16 autocast: responses then match the model up to bfloat16's rounding.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    copies: MergedCopies | None = None
    bf16: bool = False

    label = "generate"
    autocasts = True

    @property
    def name(self) -> str:
        """The name for the record of a run."""
        return f"transformers.{self.label}{', bf16' * self.bf16}{', adapter merged' * (self.copies is not None)}"

    def sync(self) -> None:
        """Merge the current weights; an engine without copies samples from the model's own weights."""
        if self.copies:
            self.copies.sync()

    def sample(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
        stop_token_ids: list[int] | None = None,
    ) -> list[list[int]]:
        """Return responses as in `Engine.sample`."""
        stop_token_ids = stop_token_ids or turn_end_ids(self.tokenizer)
        merged = self.copies.active() if self.copies else nullcontext()
        with merged, torch.no_grad(), without_generation_defaults(self.model):
            return self.sample_merged(prompts, max_new_tokens, temperature, batch_size, stop_token_ids)

    def release(self) -> None:
        """Free the merged copies."""
        if self.copies:
            self.copies.free()

    def sample_merged(
        self, prompts: list[list[int]], length: int, temperature: float, batch_size: int, stop_token_ids: list[int]
    ) -> list[list[int]]:
        """Return responses from the model in its current state; rows that have ended leave the batch."""
        with self.autocast():
            return sample_replies(self.model, self.tokenizer, prompts, length, temperature, batch_size, stop_token_ids)

    def autocast(self):
        """Return a context of bf16 autocast if `bf16`, else one that keeps the caller's autocast."""
        return torch.autocast(self.model.device.type, torch.bfloat16) if self.bf16 else nullcontext()


@dataclass
class StaticEngine(GenerateEngine):
    """Samples with a static cache and compiled decoding, on a GPU in CUDA graphs; prompts are not compiled.

    A batch is computed until its last response has ended: its shape is compiled, so no row can leave it.
    """

    caches: dict[tuple[int, int], "AutocastCache"] = field(default_factory=dict)
    label = "static"

    def release(self) -> None:
        """Free the merged copies and the caches."""
        super().release()
        self.caches.clear()

    def sample_merged(
        self, prompts: list[list[int]], length: int, temperature: float, batch_size: int, stop_token_ids: list[int]
    ) -> list[list[int]]:
        """Return responses from the model in its current state."""
        compiled = CompileConfig(mode="reduce-overhead" if self.model.device.type == "cuda" else "default")
        compiled.dynamic = False  # CUDA graphs have fixed shapes
        compile_everywhere(compiled)
        config = sampling_config(self.tokenizer, length, temperature, stop_token_ids)
        config.compile_config = compiled
        replies = []
        with self.autocast():
            for batch in padded_batches(self.model, self.tokenizer, prompts, batch_size):
                ids, mask = batch["input_ids"], batch["attention_mask"]
                cache = self.cache_for(*ids.shape, length)
                options = {"generation_config": config, CACHE_NAME: cache}
                made = self.model.generate(input_ids=ids, attention_mask=mask, **options)
                replies += [up_to_stop(row, stop_token_ids) for row in made[:, ids.shape[1] :].tolist()]
        return replies

    def cache_for(self, rows: int, width: int, length: int) -> "AutocastCache":
        """Return an empty cache for rows of `width` prompt tokens and `length` new ones; caches are reused by shape."""
        tokens = -(-(width + length) // CACHE_STEP) * CACHE_STEP
        if (cache := self.caches.get((rows, tokens))) is None:
            config = self.model.config.get_text_config(decoder=True)
            self.caches[rows, tokens] = cache = AutocastCache(config=config, max_cache_len=tokens)
        elif cache.is_initialized:
            cache.reset()
        return cache


class AutocastCache(StaticCache):
    """A static cache with keys and values in the dtype in which autocast, if active, computes attention.

    On a float32 base, rotated keys are in float32 and values in bfloat16, but a layer of the cache has one dtype.
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Return all keys and values of a layer, with the new ones."""
        kind = key_states.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        return super().update(key_states, value_states, *args, **kwargs)


@dataclass
class ContinuousEngine(GenerateEngine):
    """Samples with Transformers' continuous batching: a new prompt replaces each response that ends.

    Its thread has no autocast: it computes in the model's dtype, in which its cache has keys and values.
    """

    label = "continuous"
    autocasts = False

    def sample_merged(
        self, prompts: list[list[int]], length: int, temperature: float, batch_size: int, stop_token_ids: list[int]
    ) -> list[list[int]]:
        """Return responses from the model in its current state, at most `batch_size` at the same time.

        Raises:
            EngineError: Transformers failed to sample.
        """
        seed = int(torch.randint(2**31, ()))  # from the global generator, which Transformers then reseeds
        base = without_adapter(self.model)
        config = sampling_config(self.tokenizer, length, temperature, stop_token_ids)
        tokens = max(map(len, prompts)) + length
        with keep_random_state(self.model.device), without_autocast_wrapper(base):
            return run_continuously(base, prompts, config, batching_config(tokens, min(batch_size, len(prompts)), seed))


def batching_config(tokens: int, rows: int, seed: int) -> ContinuousBatchingConfig:
    """Return the settings for `rows` responses at a time, with a cache of their size: the default takes most memory.

    Args:
        tokens: tokens of the longest prompt with its response.
    """
    config = ContinuousBatchingConfig(seed=seed, max_requests_per_batch=rows, allow_block_sharing=False)
    config.auto_switch_to_flash = False  # flash attention does not support float32
    config.num_blocks = rows * (-(-tokens // page_tokens(config)) + 1)
    config.max_batch_tokens = max(rows, min(rows * tokens, 4096))  # per forward pass: prompts are split
    return config


def run_continuously(
    model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, batching: ContinuousBatchingConfig
) -> list[list[int]]:
    """Return responses by continuous batching. All prompts are queued before it starts, so that a seed is reproducible.

    `generate_batch` adds prompts to a running loop, so that batches depend on the timing of threads.

    Raises:
        EngineError: Transformers failed to sample.
    """
    manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=batching)
    names = manager.add_requests(prompts, max_new_tokens=config.max_new_tokens)
    found = {}
    manager.start()
    try:
        while len(found) < len(names):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                found[result.request_id] = result
            elif result is None and not manager.is_running():
                break
    finally:
        manager.stop(block=True, hard_stop=True)
        manager.destroy()
    failed = [str(result.error) for result in found.values() if result.error] or ["its loop ended"]
    if len(found) < len(names) or any(result.error for result in found.values()):
        raise EngineError(f"continuous batching failed: {failed[0]}: set rollout_engine: generate")
    return [up_to_stop(found[name].generated_tokens, config.eos_token_id) for name in names]


ENGINES: dict[str, type[GenerateEngine]] = {
    "generate": GenerateEngine,
    "static": StaticEngine,
    "continuous": ContinuousEngine,
}
