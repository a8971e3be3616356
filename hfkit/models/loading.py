"""Loads models from a folder or the Hub.

A path may name a full model or a LoRA adapter, which is loaded with its base. Weights are loaded from safetensors;
code in a model's repository is never run.
"""

import os
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from accelerate.utils import disable_fsdp_ram_efficient_loading
from peft import PeftModel, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from hfkit.core.compat_sharding import whole_models
from hfkit.core.console import say, warn
from hfkit.core.device import device, disable_cudnn_attention, has_bf16
from hfkit.core.errors import ConfigError, HfkitError, Problem, reason
from hfkit.core.explain_errors import is_gpu_full
from hfkit.core.launch import shards_with_fsdp
from hfkit.models.adapter_shape import CLASSIFIER_HEADS, HEADS, fit_to_model, lora_config, on_meta
from hfkit.models.adapter_support import require_supported
from hfkit.models.adapters import load_adapter, load_adapter_weights, merge_adapter
from hfkit.models.fitting import require_fitting, require_vocabulary
from hfkit.models.model_config import read_config
from hfkit.models.multimodal import freeze_parts_without_text
from hfkit.models.precision import checkpoint_dtype, computes_in_bf16, frozen_dtype, train_in_float32
from hfkit.models.quantization import fit_quantization, prevent_packing, quantization_as_trained, quantization_of
from hfkit.models.reward_sources import reward_source
from hfkit.models.saving import repair_generation_config, require_generation_config
from hfkit.models.score_head import compute_head_in_float32, store_head_in_float32
from hfkit.models.stored_weights import (
    SHOWN,
    loader_of,
    require_finite,
    require_stored,
    require_whole,
    unused_weights,
)
from hfkit.models.tokenizers import load_tokenizer
from hfkit.models.zero import CANNOT_MERGE
from hfkit.records.base import base_identity
from hfkit.records.source import Source


def load_base(
    path: str,
    revision: str = "main",
    *,
    head: type = AutoModelForCausalLM,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    quantization: BitsAndBytesConfig | None = None,
    allow_pickle: bool = False,
    on: torch.device | None = None,
    has_head: bool = False,
) -> PreTrainedModel:
    """Load a model without adapters and disable cuDNN's attention; a classifier's head computes in float32.

    Under ZeRO-3 (see `loading_in_shards`), each process keeps only its part of every weight.

    Args:
        head: the auto class to load with.
        on: the device; default: this process's device.
        has_head: whether the weights must include a classifier's head; by default a new one is created.

    Raises:
        HfkitError: there are no safetensors weights and `allow_pickle` is off; the weights cannot be read; or some are
            missing, and would be random, or have another shape.
    """
    disable_cudnn_attention()
    if head is AutoModelForCausalLM:
        require_generation_config(path, revision)
    require_stored(path, revision, head, allow_pickle, has_head)
    target, options = on or device(), {}
    if quantization is not None:
        quantization = fit_quantization(quantization, cached_config(path, revision))
    in_shards = is_deepspeed_zero3_enabled() and quantization is None
    if quantization is not None or (target.type == "cuda" and not in_shards):
        options["device_map"] = {"": target}  # loads to the device without a copy on the CPU
    try:
        with nullcontext() if in_shards else whole_models():
            model, loaded = loader_of(path, revision, head, allow_pickle, has_head)(
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                attn_implementation=attn_implementation,
                quantization_config=quantization,
                **options,
            )
    except Exception as error:  # libraries raise many types for a broken folder
        if is_gpu_full(error):
            raise
        raise HfkitError(f"cannot load {path}: {reason(error)}") from error
    if any(parameter.is_meta for parameter in model.parameters()):  # the main process sends the weights
        return compute_head_in_float32(model)
    require_finite(path, model.named_parameters())
    require_whole(path, model, loaded, has_head)  # could not be checked before for quantized weights
    if unused := unused_weights(model, loaded):
        shown = ", ".join(unused[:SHOWN])
        warn(f"{path} has {len(unused)} weights that a {type(model).__name__} does not use: {shown} (ignored)")
    model = compute_head_in_float32(model)
    if in_shards:
        return model
    return prevent_packing(model) if quantization is not None else model.to(target)


def load_trainable(config, task_type: TaskType = TaskType.CAUSAL_LM) -> PreTrainedModel | PeftModel:
    """Load the model that a stage trains, from `config.model_name_or_path`.

    With LoRA: the frozen base under one trainable adapter, which starts as a copy of the adapter at the path, if any,
    so that the saved adapter needs only the base. Without LoRA: the full model, with an adapter at the path merged
    into it; of a multimodal model, the text model. A scalar head (`task_type=SEQ_CLS`) is always trained and saved.
    """
    source = Source.of(config.model_name_or_path, config.model_revision)
    require_supported(source, to_merge=not config.use_peft, to_train=config.use_peft)
    if source.adapter and not config.use_peft and is_deepspeed_zero3_enabled():
        raise ConfigError([Problem("model_name_or_path", config.model_name_or_path, CANNOT_MERGE)])
    options = loading_options(config) | device_to_shard_from(config)
    model = load_base(source.base, source.base_revision, head=HEADS[task_type], **options)
    repair_generation_config(model, source.base)
    if not config.use_peft:
        if model.dtype.itemsize < 4 and not is_deepspeed_zero3_enabled():  # ZeRO-3 keeps a float32 copy
            warn(
                f"dtype: {config.dtype} without use_peft trains 16-bit weights, which round small updates to 0: set "
                "dtype: float32 and bf16: true"
            )
        return freeze_parts_without_text(merge_adapter(model, source) if source.adapter else model)
    return add_trainable_adapter(model, config, source, task_type)


def loading_options(config) -> dict:
    """Return the options of `load_base` that a stage's config sets."""
    return {
        "dtype": dtype_to_train(config),
        "attn_implementation": config.attn_implementation,
        "quantization": quantization_of(vars(config)),
        "allow_pickle": config.allow_pickle,
    }


def device_to_shard_from(config) -> dict:
    """Return the option `on` of `load_base` that saves each GPU of an FSDP2 launch a whole copy of a model.

    FSDP2 moves weights layer by layer from the CPU, but keeps 4-bit weights whole on each GPU. Accelerate does not
    broadcast those, so each process must load them, even if the launch sets efficient loading.
    """
    if not shards_with_fsdp():
        return {}
    if quantization_of(vars(config)) is None:
        return {"on": torch.device("cpu")}
    disable_fsdp_ram_efficient_loading()
    return {}


def dtype_to_train(config) -> str:
    """Return the dtype in which a stage loads its base: the config's, else that of `frozen_dtype`."""
    if config.dtype is not None:
        return config.dtype
    if config.model_name_or_path is None:  # a new model
        return "float32"
    checkpoint = checkpoint_dtype(cached_config(config.model_name_or_path, config.model_revision))
    return frozen_dtype(device().type, computes_in_bf16(config, has_bf16()), config.use_peft, checkpoint)


def add_trainable_adapter(model: PreTrainedModel, config, source: Source, task_type: TaskType) -> PeftModel:
    """Freeze a base and add one trainable adapter, which starts as a copy of the one at `source`, if any.

    The trained weights of the adapter and of a classifier's head are in float32, whatever the base's dtype. Modules
    trained in full are in float32 under bf16 autocast; without it they must compute in the base's dtype.

    Raises:
        HfkitError: the adapter does not fit the base.
    """
    store_head_in_float32(model)
    try:
        shape = fit_to_model(lora_config(config, source, task_type), model)
        model = get_peft_model(model, shape)
    except ValueError as error:
        raise HfkitError(f"no adapter fits {source.base}: {reason(error)}: change lora_target_modules") from error
    peft_config = model.peft_config["default"]
    # an absolute path or a Hub commit: the adapter must load later and from another working directory
    base = base_identity(source.base, source.base_revision)
    peft_config.base_model_name_or_path, peft_config.revision = base["path"], base["revision"]
    if source.adapter:
        load_adapter_weights(model, source)
    if computes_in_bf16(config, has_bf16()):
        train_in_float32(model)
    if any(parameter.requires_grad and parameter.dtype.itemsize < 4 for parameter in model.parameters()):
        names = ", ".join(sorted({*(shape.modules_to_save or ())} - {*CLASSIFIER_HEADS}))
        warn(f"dtype: {config.dtype} trains {names} in 16 bits, which round small updates to 0: set dtype: float32")
    return model


def without_expert_dropout(config, task_type: TaskType = TaskType.CAUSAL_LM):
    """Return a stage's config with `lora_dropout: 0` if its adapter matches experts of a mixture; read no weights.

    LoRA on experts has no dropout, and the run's record and checkpoints must contain the value used in training.
    """
    if not config.use_peft or not config.lora_dropout or config.model_name_or_path is None:
        return config
    source = Source.of(config.model_name_or_path, config.model_revision)
    model = on_meta(cached_config(config.model_name_or_path, config.model_revision), HEADS[task_type])
    if fit_to_model(lora_config(config, source, task_type), model).lora_dropout:
        return config
    say("lora_dropout: set to 0, since LoRA on the experts of a mixture supports no dropout")
    return replace(config, lora_dropout=0.0)


def load_policy(
    path: str | os.PathLike, revision: str = "main", *, base: str | None = None, **options
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM to generate with, in eval mode, and its tokenizer, from a full model or an adapter.

    Args:
        path: folder or Hub id.
        revision: branch, tag or commit.
        base: where an adapter's base is now, if not at the path in its config.
        options: `dtype` (default "float32"), `attn_implementation`, `allow_pickle`, and `quantization`: a
            BitsAndBytesConfig, or None for the stored base; default: the adapter's setting in training.

    Raises:
        HfkitError: the base is not the one that the adapter was trained on.
    """
    path = os.fspath(path)
    source = Source.of(path, revision, base)
    require_supported(source)
    require_fitting(source)
    tokenizer = load_tokenizer(path, revision)
    require_vocabulary(source, tokenizer)
    options.setdefault("quantization", quantization_as_trained(path, revision))
    model = load_base(source.base, source.base_revision, **options)
    if source.adapter:
        model = load_adapter(model, source)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def load_classifier(
    path: str, revision: str = "main", *, base: str | None = None, **options
) -> PreTrainedModel | PeftModel:
    """Load a reward model with its trained head, in eval mode: a full model or an adapter.

    Args:
        base: where an adapter's base is now, if not at the path in its config.

    Raises:
        HfkitError: as `reward_source`; or the base is not the one that the adapter was trained on.
    """
    source = reward_source(path, revision, base)
    options.setdefault("quantization", quantization_as_trained(path, revision))
    options |= {"head": AutoModelForSequenceClassification, "has_head": source.adapter is None}
    model = load_base(source.base, source.base_revision, **options)
    return (load_adapter(model, source) if source.adapter else model).eval()


def is_classifier(path: str, revision: str) -> bool:
    """Return whether a path has a sequence classifier, as a full model or an adapter."""
    adapter = Source.of(path, revision).adapter
    if adapter is not None:
        return adapter.get("task_type") == "SEQ_CLS"
    try:
        return "ForSequenceClassification" in str(cached_config(path, revision).architectures)
    except HfkitError:
        return False


def cached_config(path: str, revision: str) -> PreTrainedConfig:
    """Return the config of the base at a path, read once while its file is unchanged.

    Raises:
        HfkitError: it cannot be read.
    """
    source = Source.of(path, revision)
    file = Path(source.base).absolute() / "config.json"
    if not file.is_file():
        return _cached_config(source.base, source.base_revision)
    state = file.stat()
    return _cached_config(str(file.parent), source.base_revision, state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _cached_config(base: str, revision: str, *_state: int) -> PreTrainedConfig:
    return read_config(base, revision)
