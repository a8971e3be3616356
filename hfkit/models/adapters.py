"""LoRA adapters: their shape, their weights on a base, and what they make of it when merged."""

from contextlib import contextmanager

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hfkit.config.fields import DEFAULT_LORA_RANK
from hfkit.core.errors import HfkitError, reason
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import MODEL_FILES
from hfkit.models.score_head import hold_head_in_float32
from hfkit.records.base import base_identity, require_own_base
from hfkit.records.source import Source, find_file

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def lora_config(config, source: Source, task_type: TaskType) -> LoraConfig:
    """The LoRA of a stage: the starting adapter's shape where there is one, else the config's."""
    start = source.adapter or {}
    rank = start.get("r") or config.lora_r or DEFAULT_LORA_RANK
    return LoraConfig(
        task_type=task_type,
        r=rank,
        lora_alpha=start.get("lora_alpha") or config.lora_alpha or 2 * rank,
        lora_dropout=config.lora_dropout,
        target_modules=start.get("target_modules") or config.lora_target_modules or "all-linear",
        use_rslora=start.get("use_rslora", config.use_rslora),
        # peft adds the head of a classifier by itself, but only if the task type says that it is one
        modules_to_save=["score"] if task_type == TaskType.SEQ_CLS else None,
    )


def adapter_weights(source: Source) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, on the CPU.

    Raises:
        HfkitError: there are none in safetensors, or they cannot be read.
    """
    file = find_file(source.path, ADAPTER_WEIGHTS, source.revision)
    if file is None:
        raise HfkitError(f"{source.path} has no {ADAPTER_WEIGHTS}; adapters are read from safetensors only")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise HfkitError(f"cannot read {file}: {reason(error)}") from error


def record_base(model) -> dict:
    """What a run's record says of the base beneath a model to train: {"base": its identity}; {} for a full model."""
    if not isinstance(model, PeftModel):
        return {}
    config = model.peft_config["default"]
    return {"base": base_identity(config.base_model_name_or_path, config.revision or "main")}


def with_adapter(model: PreTrainedModel | PeftModel, source: Source, **options) -> PeftModel:
    """The model under the adapter of a path, frozen; one that has adapters gets it as a further one, `adapter_name`.

    A reward model's head is held in float32, as it was trained and saved.

    Raises:
        HfkitError: the adapter was trained on another base, does not fit, or is not in safetensors.
    """
    require_own_base(source)
    adapter_weights(source)
    if source.adapter.get("task_type") == TaskType.SEQ_CLS:
        hold_head_in_float32(model)
    try:
        folder = local_folder(source.path, source.revision, MODEL_FILES)
        options = {"torch_device": "cpu", **options}  # peft's own guess is the first GPU, in every process
        if isinstance(model, PeftModel):
            model.load_adapter(folder, **options)
            return model
        return PeftModel.from_pretrained(model, folder, **options)
    except (RuntimeError, ValueError) as error:
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {reason(error)}") from error


def load_adapter_weights(model: PeftModel, source: Source) -> None:
    """Copies an adapter's LoRA tensors (and its head, if both have one) into the model's own adapter.

    Raises:
        HfkitError: the adapter was trained on another base, or does not fit.
    """
    require_own_base(source)
    # peft wants a tensor for each it would save; a new head keeps the one it has
    weights = {**get_peft_model_state_dict(model, save_embedding_layers=False), **adapter_weights(source)}
    try:
        result = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {reason(error)}") from error
    strangers = [name for name in result.unexpected_keys if "score" not in name]
    if strangers:
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {strangers[:3]}")


def merge_adapter(model: PreTrainedModel, source: Source) -> PreTrainedModel:
    """The base with the adapter's change added to its weights, all of them trainable."""
    config = PeftConfig.from_pretrained(local_folder(source.path, source.revision, MODEL_FILES))
    config.task_type = None  # a language model's adapter may go into a classifier
    adapted = with_adapter(model, source, config=config, torch_device=str(model.device))
    untie(adapted)
    merged = adapted.merge_and_unload().requires_grad_(True)  # peft froze the base
    if hasattr(merged, "score"):
        merged.score.to(merged.dtype)  # all of a model is written and read in one dtype
    return merged


def can_merge(model: PreTrainedModel | PeftModel, bf16: bool = False) -> bool:
    """Whether an adapter on it can be merged to compute with: plain LoRA, alone, on a base in float32.

    DoRA, biases, whole modules that are trained beside it, and the experts of a mixture are no sum of two matrices.

    Args:
        bf16: whether it computes under bf16 autocast: then a base in bfloat16 will do as well. A quantized one will
            not: its merged copy would cost what quantizing saves.
    """
    dtypes = (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)
    modules = [*model.modules()]
    layers = [module for module in modules if isinstance(module, LoraLayer)]
    return (
        bool(layers)
        and not any(isinstance(module, AuxiliaryTrainingWrapper) for module in modules)
        and all(type(layer) in (Linear, Embedding) for layer in layers)
        and not any(layer.lora_variant or any(layer.lora_bias.values()) for layer in layers)
        and all(layer.get_base_layer().weight.dtype in dtypes for layer in layers)
    )


@contextmanager
def temporarily_merged(model: PeftModel, bf16: bool = False):
    """Within it the model computes, without gradients, with its adapter merged into copies of the adapted matrices.

    The base's own are not touched, so other models may stand on them; they are put back at the end.

    Args:
        bf16: whether the copies of linear layers are in bfloat16, as autocast would cast them for every token (see
            `rounded`); embeddings, which it leaves alone, stay in the base's dtype.
    """
    bases = {m: m.get_base_layer() for m in model.modules() if isinstance(m, LoraLayer)}
    kept = {base: base.weight for base in bases.values()}
    try:
        with torch.no_grad(), model.disable_adapter():
            for layer, base in bases.items():
                merged = base.weight + layer.get_delta_weight(model.active_adapter)
                merged = rounded(merged) if bf16 and isinstance(layer, Linear) else merged.to(base.weight.dtype)
                base.weight = torch.nn.Parameter(merged, requires_grad=False)
            yield
    finally:
        for base, weight in kept.items():
            base.weight = weight


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """A float32 tensor in bfloat16, each number rounded up or down by chance, so that nothing is lost in the mean.

    Most bases come in bfloat16. To the nearest, W + BA would be W again wherever BA is less than half of W's last
    digit: for hundreds of steps, while every entry of BA is small and all of them point one way, the model would be
    sampled as it was at the first. Draws from torch's global generator.
    """
    bits = weight.float().view(torch.int32)  # a bfloat16 is the upper half of a float32
    bits = torch.randint_like(bits, 1 << 16).add_(bits).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).bfloat16()


def untie(model: PeftModel) -> None:
    """Gives the output head weights of its own if it shares the embedding's and LoRA is on one of the two.

    Merged into shared weights, the change of the one would be a change of the other, too.
    """
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or not any(hasattr(end, "base_layer") for end in ends):
        return
    embedding, head = (getattr(end, "base_layer", end) for end in ends)
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        base.config.tie_word_embeddings = False
