"""Private parts of other libraries that hfkit uses, each in a function that names the upstream version it was read in.

No other module uses them. `tests/core/test_compat.py` fails when upstream moves one.
"""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from traceback import extract_tb
from types import ModuleType
from typing import Any


def use_one_gpu(arguments) -> None:
    """Make a `TrainingArguments` count one GPU, so that `Trainer` does not fall back to nn.DataParallel.

    transformers 5.23.0: `n_gpu` has no setter; `Trainer` itself sets `_n_gpu` for a model on several GPUs.
    """
    arguments._n_gpu = 1


def forget_process_state(state: Any) -> None:
    """Make accelerate choose this process's device again; otherwise it keeps its first choice, whatever is requested.

    accelerate 1.15.0: no public method does it; each `TrainingArguments` of Transformers calls this one.

    Args:
        state: accelerate's `AcceleratorState`; this module imports no heavy library.
    """
    state._reset_state(reset_partial_state=True)


@contextmanager
def names_of_modules(model: Any):
    """Save a model's weights under the names of its modules, not under those in the files that it was loaded from.

    transformers 5.24.0: a `Trainer` that resumes, or loads its best checkpoint, ignores weights with other names. Such
    are the older names of multimodal models, and the matrices of single experts.
    """
    conversions = getattr(model, "_weight_conversions", None)
    model._weight_conversions = []
    try:
        yield
    finally:
        model._weight_conversions = conversions


def load_checkpoint_weights(trainer, checkpoint: str) -> None:
    """Load the weights of a checkpoint into a `Trainer`'s model.

    transformers 5.23.0: the public `Trainer.train` takes one more step even after the last one.
    """
    trainer._load_from_checkpoint(checkpoint)


def determine_best_metric(trainer, metrics: dict[str, float]) -> bool:
    """Store the metric of an evaluation in a `Trainer`'s state if it is the best one; return whether it is.

    transformers 5.23.0: `Trainer.evaluate` does not, but the evaluations during training do.
    """
    return trainer._determine_best_metric(metrics, None)


def attention_of(config) -> str | None:
    """Return the attention implementation that a model with this config uses.

    transformers 5.23.0: the resolved name is in `PreTrainedConfig._attn_implementation` only.
    """
    return config._attn_implementation


def supports_flash_attention(model_class) -> bool:
    """Return whether a model class can compute with flash attention.

    transformers 5.23.0: this attribute alone says so, before the model is loaded.
    """
    return model_class._supports_flash_attn


def copy_quantization(source, target) -> None:
    """Copy the attributes of a quantized model that peft and the trainers read.

    transformers 5.23.0: `HfQuantizer` sets these attributes while it loads a model; nothing else sets them.
    """
    for name in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method", "hf_quantizer"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


@contextmanager
def without_quantizer(model):
    """Hide the quantizer of a model whose quantized layers are all replaced, so that `generate` may compile it.

    transformers 5.23.0: `generate` compiles no model with a `hf_quantizer` of bitsandbytes; no argument overrules it.
    """
    quantizer = model.__dict__.pop("hf_quantizer", None)
    try:
        yield
    finally:
        if quantizer is not None:
            model.hf_quantizer = quantizer


@contextmanager
def without_autocast_wrapper(model):
    """Let a model compute in its own dtype, without the autocast that an `Accelerator` has added to `forward`.

    accelerate 1.15.0: `prepare_model` keeps the method that it replaces in `_original_forward`; the public
    `extract_model_from_parallel` restores it for good.
    """
    attributes = vars(model)
    wrapped = attributes.get("forward") if "_original_forward" in attributes else None
    if wrapped is not None:
        model.forward = attributes["_original_forward"]
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped


def compile_everywhere(config) -> None:
    """Make `generate` compile with a `CompileConfig` on a CPU too.

    transformers 5.23.0: it does so with this attribute only, which no argument sets.
    """
    config._compile_all_devices = True


def supports_static_cache(model_class) -> bool:
    """Return whether a model class decodes over a static cache.

    transformers 5.23.0: this attribute alone says so; no public method does.
    """
    return model_class._can_compile_fullgraph


def page_tokens(config) -> int:
    """Return the tokens in a page of a paged cache, from a `ContinuousBatchingConfig`.

    transformers 5.23.0: `page_size`; 5.17.0: `block_size`.
    """
    return getattr(config, "page_size", None) or config.block_size


def forget_offsets(model: Any) -> None:
    """Let a model that also reads images continue to generate from a cache with other rows.

    transformers 5.24.0: Qwen-VL and others add the `rope_deltas` of the rows of the last prompts to all later
    positions; those of text are 0.

    Args:
        model: a torch module.
    """
    for module in model.modules():
        if getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None


def cache_name(output_class) -> str:
    """Return the name of the cache in the arguments and outputs of models, from `BaseModelOutputWithPast`.

    transformers 5.23.0: `past_key_values`; 5.24.0: `cache`, and the old name warns.
    """
    return "cache" if "cache" in output_class.__dataclass_fields__ else "past_key_values"


def keep_unpacked(layer) -> None:
    """Keep a `Linear4bit` of bitsandbytes from repacking its weights on a CPU with AVX512-BF16 in evaluation.

    No gradient flows through packed weights: after an evaluation, LoRA would silently train with wrong gradients.
    bitsandbytes 0.50.2: the layer decides by this attribute, which no argument sets.
    """
    layer.support_avx512bf16_for_cpu = False


def scales_of_8bit(layer) -> list:
    """Return the quantized weights and scales of a `Linear8bitLt` of bitsandbytes.

    bitsandbytes 0.50.2: the first forward pass moves them from the parameter to `layer.state`, where other layers
    with the same parameter do not find them; this moves them at once.
    """
    if layer.weight.CB is not None:
        layer.init_8bit_state()
    return [layer.state.CB, layer.state.SCB]


def is_plain_lora(layer) -> bool:
    """Return whether a `LoraLayer` of peft adds just B A to its weight: no DoRA or other variant, and no bias.

    peft 0.21.2: no method returns the variant and bias of an adapter.
    """
    return not layer.lora_variant and not any(layer.lora_bias.values())


def is_lost_worker(error: BaseException) -> bool:
    """Return whether an error of `Dataset.map` means that one of its processes died, for example from lack of memory.

    datasets 5.2.0: a plain RuntimeError; only the place where it is raised distinguishes it from a worker's own error.
    """
    frames = extract_tb(error.__traceback__)
    return isinstance(error, RuntimeError) and frames[-1].name == "iflatmap_unordered" and error.__cause__ is None


def http_library(error_class: type) -> ModuleType:
    """Return the HTTP library that `huggingface_hub` uses, from its `HfHubHTTPError`.

    huggingface_hub 2.4.0 uses httpx2, earlier versions httpx; the base of its error class shows which.
    """
    return import_module(error_class.__bases__[0].__module__.partition(".")[0])


def name_pre_tokenizer(converter: ModuleType, name_of: Callable[[Any], str | None]) -> None:
    """Make llama.cpp's `convert_hf_to_gguf` ask `name_of(tokenizer)` for a BPE pre-tokenizer that it does not know.

    gguf 0.19: it looks a hash of token ids up in a table and has no option for the name; for an unknown hash it raises
    NotImplementedError. `tests/commands/test_export_gguf.py` tests it if a converter is installed.
    """
    models = sys.modules[converter.ModelBase.__module__]  # the converter itself, or a neighboring module
    known = models.TextModel.get_vocab_base_pre

    def get_vocab_base_pre(model, tokenizer) -> str:
        try:
            return known(model, tokenizer)
        except NotImplementedError:
            if (name := name_of(tokenizer)) is None:
                raise
            return name

    models.TextModel.get_vocab_base_pre = get_vocab_base_pre


def set_template_environment(environment: type) -> None:
    """Make Transformers compile chat templates in this subclass of Jinja's `ImmutableSandboxedEnvironment`.

    transformers 5.23.0: the module creates the environment itself, from the class it imported, and adds its functions.
    """
    templates: Any = import_module("transformers.utils.chat_template_utils")
    templates.ImmutableSandboxedEnvironment = environment
