"""LoRA adapters: their configuration, their weights on a base, and merging."""

from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hfkit.config.fields import DEFAULT_LORA_RANK
from hfkit.core.compat import is_plain_lora
from hfkit.core.errors import HfkitError, reason
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import MODEL_FILES
from hfkit.models.score_head import store_head_in_float32
from hfkit.records.base import base_identity, require_own_base
from hfkit.records.source import Source, find_file

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def lora_config(config, source: Source, task_type: TaskType) -> LoraConfig:
    """Return the LoRA configuration of a stage: that of the adapter at `source` if there is one, else the config's."""
    start = source.adapter or {}
    rank = start.get("r") or config.lora_r or DEFAULT_LORA_RANK
    return LoraConfig(
        task_type=task_type,
        r=rank,
        lora_alpha=start.get("lora_alpha") or config.lora_alpha or 2 * rank,
        lora_dropout=config.lora_dropout,
        target_modules=start.get("target_modules") or config.lora_target_modules or "all-linear",
        use_rslora=start.get("use_rslora", config.use_rslora),
        # peft adds a classifier's head only if the task type says that it is one
        modules_to_save=["score"] if task_type == TaskType.SEQ_CLS else None,
    )


def read_adapter_weights(source: Source) -> dict[str, torch.Tensor]:
    """Read the tensors of an adapter, onto the CPU.

    Raises:
        HfkitError: there is no safetensors file, or it cannot be read.
    """
    file = find_file(source.path, ADAPTER_WEIGHTS, source.revision)
    if file is None:
        raise HfkitError(f"{source.path} has no {ADAPTER_WEIGHTS}: adapters are loaded from safetensors only")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise HfkitError(f"cannot read {file}: {reason(error)}") from error


def record_base(model) -> dict:
    """Return what a run's record says about the base of a model: {"base": its identity}; {} for a full model."""
    if not isinstance(model, PeftModel):
        return {}
    config = model.peft_config["default"]
    return {"base": base_identity(config.base_model_name_or_path, config.revision or "main")}


def load_adapter(model: PreTrainedModel | PeftModel, source: Source, **options) -> PeftModel:
    """Load the adapter at `source`, frozen, onto a base, or onto a model with adapters as one more, `adapter_name`.

    The head of a reward model is kept in float32, as it was trained and saved.

    Args:
        options: of `PeftModel.from_pretrained` or `load_adapter`.

    Raises:
        HfkitError: the adapter was trained on another base, does not fit, or has no safetensors file.
    """
    require_own_base(source)
    read_adapter_weights(source)
    if source.adapter.get("task_type") == TaskType.SEQ_CLS:
        store_head_in_float32(model)
    try:
        folder = local_folder(source.path, source.revision, MODEL_FILES)
        options = {"torch_device": "cpu", **options}  # peft's default is the first GPU, in every process
        if isinstance(model, PeftModel):
            model.load_adapter(folder, **options)
            return model
        return PeftModel.from_pretrained(model, folder, **options)
    except (RuntimeError, ValueError) as error:
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {reason(error)}") from error


def load_adapter_weights(model: PeftModel, source: Source) -> None:
    """Copy the LoRA tensors of the adapter at `source`, and its head if both have one, into the model's adapter.

    Raises:
        HfkitError: the adapter was trained on another base, or does not fit.
    """
    require_own_base(source)
    # peft expects every tensor that it would save; a new head keeps its own
    weights = {**get_peft_model_state_dict(model, save_embedding_layers=False), **read_adapter_weights(source)}
    try:
        result = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {reason(error)}") from error
    unexpected = [name for name in result.unexpected_keys if "score" not in name]
    if unexpected:
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {unexpected[:3]}")


def merge_adapter(model: PreTrainedModel, source: Source) -> PreTrainedModel:
    """Merge the adapter at `source` into its base and return that, with all weights trainable."""
    config = PeftConfig.from_pretrained(local_folder(source.path, source.revision, MODEL_FILES))
    config.task_type = None  # a language model's adapter may go into a classifier
    adapted = load_adapter(model, source, config=config, torch_device=str(model.device))
    untie_output_head(adapted)
    merged = adapted.merge_and_unload().requires_grad_(True)  # peft froze the base
    if hasattr(merged, "score"):
        merged.score.to(merged.dtype)  # a model is saved and loaded in one dtype
    return merged


def can_merge(model: PreTrainedModel | PeftModel, bf16: bool = False) -> bool:
    """Return whether the adapter can be merged temporarily: plain LoRA layers only, on a base in float32.

    DoRA, biases, whole trained modules and experts of a mixture are not W + B A.

    Args:
        bf16: whether the model computes under bf16 autocast, where a base in bfloat16 works too. A quantized base never
            does: the merged copy would take the memory that quantization saves.
    """
    dtypes = (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)
    modules = [*model.modules()]
    layers = [module for module in modules if isinstance(module, LoraLayer)]
    return (
        bool(layers)
        and not any(isinstance(module, AuxiliaryTrainingWrapper) for module in modules)
        and all(type(layer) in (Linear, Embedding) for layer in layers)
        and all(map(is_plain_lora, layers))
        and all(layer.get_base_layer().weight.dtype in dtypes for layer in layers)
    )


@contextmanager
def temporarily_merged(model: PeftModel, bf16: bool = False):
    """Let the model compute, without gradients, with its adapter merged into copies of the adapted matrices.

    The base's own matrices, which other models may share, stay unchanged and are restored at the end.

    Args:
        bf16: whether the copies of linear layers are in bfloat16, which autocast would cast them to for every token
            (see `round_randomly`). Embeddings, which autocast does not cast, keep the base's dtype.
    """
    bases = {m: m.get_base_layer() for m in model.modules() if isinstance(m, LoraLayer)}
    kept = {base: base.weight for base in bases.values()}
    try:
        with torch.no_grad(), model.disable_adapter():
            for layer, base in bases.items():
                merged = base.weight + layer.get_delta_weight(model.active_adapter)
                merged = round_randomly(merged) if bf16 and isinstance(layer, Linear) else merged.to(base.weight.dtype)
                base.weight = torch.nn.Parameter(merged, requires_grad=False)
            yield
    finally:
        for base, weight in kept.items():
            base.weight = weight


def round_randomly(weight: torch.Tensor) -> torch.Tensor:
    """Return a float32 tensor in bfloat16, each number rounded up or down at random, with the right expected value.

    Most bases come in bfloat16. Rounded to the nearest, W + BA would equal W wherever BA is less than half of W's last
    digit: for hundreds of steps, while the entries of BA are small, the sampled model would be the initial one.
    Draws from torch's global generator.
    """
    bits = weight.float().view(torch.int32)  # a bfloat16 is the upper half of a float32
    bits = torch.randint_like(bits, 1 << 16).add_(bits).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).bfloat16()


def untie_output_head(model: PeftModel) -> None:
    """Copy the weights of a tied output head if LoRA is on the head or the embedding.

    Merged into shared weights, the change of one would also change the other.
    """
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or not any(hasattr(end, "base_layer") for end in ends):
        return
    embedding, head = (getattr(end, "base_layer", end) for end in ends)
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        base.config.tie_word_embeddings = False
