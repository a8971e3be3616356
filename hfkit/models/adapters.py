"""Loads LoRA adapters onto a base, and merges them."""

import os
from collections.abc import Iterable

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hfkit.core.errors import HfkitError, MissingFileError, reason
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import MODEL_FILES
from hfkit.core.unwrap import without_adapter
from hfkit.models.adapter_shape import CLASSIFIER_HEADS
from hfkit.models.adapter_support import require_supported
from hfkit.models.multimodal import describe_multimodal
from hfkit.models.score_head import store_head_in_float32
from hfkit.models.stored_weights import require_finite
from hfkit.models.zero import is_partitioned
from hfkit.records.base import base_identity, require_own_base
from hfkit.records.source import Source, find_file, read_json

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # prefix of the names in an adapter's file
ADAPTED = (".lora_", ".modules_to_save.", ".trainable_tokens_")  # in the names of an adapter's own parameters


def read_adapter_weights(source: Source) -> dict[str, torch.Tensor]:
    """Read the tensors of an adapter, onto the CPU.

    Raises:
        MissingFileError: there is no safetensors file.
        HfkitError: the file cannot be read, or contains weights that are not finite.
    """
    file = find_file(source.path, ADAPTER_WEIGHTS, source.revision)
    if file is None:
        raise MissingFileError(f"{source.path} has no {ADAPTER_WEIGHTS}: hfkit loads adapters only from safetensors")
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise HfkitError(f"cannot read {file}: {reason(error)}") from error
    require_finite(source.path, weights.items())
    return weights


def require_reward_adapter(source: Source) -> None:
    """Raise HfkitError unless an adapter is a reward model's, with a trained head of one label."""
    path, task = source.path, source.adapter.get("task_type")
    if task != "SEQ_CLS":
        raise HfkitError(f"{path} is a {task} adapter, not a reward model (SEQ_CLS)")
    heads = [weights for name, weights in read_adapter_weights(source).items() if name.endswith("score.weight")]
    if not heads:
        raise HfkitError(f"{path} was saved without its score head, so its rewards would be random")
    if len(heads[0]) != 1:
        raise HfkitError(f"the score head of {path} has {len(heads[0])} labels; a reward model has one")


def record_base(model) -> dict:
    """Return the entries of a model's base in a run's record; of a full model, only those of `describe_multimodal`.

    These are its identity, `base`, and the layers that its quantization skips besides the default ones,
    `unquantized_modules`.
    """
    multimodal = describe_multimodal(model)
    if not isinstance(model, PeftModel):
        return multimodal
    config = model.peft_config["default"]
    skipped = getattr(getattr(model.config, "quantization_config", None), "llm_int8_skip_modules", None)
    unquantized = {"unquantized_modules": skipped} if skipped else {}
    return {
        "base": base_identity(config.base_model_name_or_path, config.revision or "main"),
        **unquantized,
        **multimodal,
    }


def load_adapter(model: PreTrainedModel | PeftModel, source: Source, to_merge: bool = False, **options) -> PeftModel:
    """Load the adapter at `source`, frozen, onto a base, or as one more onto a model with adapters (`adapter_name`).

    The head of a reward model stays in float32, as trained and saved.

    Args:
        to_merge: whether the adapter may change the base, because no other model shares it.
        options: options of `PeftModel.from_pretrained` or `load_adapter`.

    Raises:
        HfkitError: the adapter was trained on another base, does not fit, or has no safetensors file.
    """
    require_own_base(source)
    require_supported(source, to_merge=to_merge)
    weights = read_adapter_weights(source)
    if not to_merge:
        require_same_base_weights(model, source, weights)
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
    given = read_adapter_weights(source)
    copies = require_same_base_weights(model, source, given)
    given = {name: tensor for name, tensor in given.items() if name not in copies}
    # peft expects every tensor that it would save; a new head keeps its weights
    weights = {**get_peft_model_state_dict(model, save_embedding_layers=False), **given}
    try:
        result = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[:2])  # the second line names the weight
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {lines}") from error
    # a classifier ignores the adapter's weights for the head of a language model, and the reverse
    backbone = f".{model.get_base_model().base_model_prefix}."
    unexpected = [
        name
        for name in result.unexpected_keys
        if not name.startswith(PREFIX) or backbone in f".{name.removeprefix(PREFIX)}"
    ]
    if unexpected:
        shown = ", ".join(unexpected[:3])
        raise HfkitError(
            f"the adapter {source.path} does not fit its base {source.base}, which has no module for {shown}: save "
            "the adapter with PEFT's save_pretrained"
        )


def is_within(module: str, names: Iterable[str]) -> bool:
    """Return whether the name of a module, or of one that contains it, ends in one of `names`, as peft matches them."""
    parts = module.split(".")
    return any(".".join(parts[: end + 1]).endswith(tuple(names)) for end in range(len(parts)))


def require_same_base_weights(model: torch.nn.Module, source: Source, weights: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of tensors in an adapter's file that are the base's own, as peft saves embeddings.

    Raises:
        HfkitError: one of them was trained, so the adapter needs another base than its config names.
    """
    base = without_adapter(model)
    named = [(name, one) for name, one in base.named_parameters() if not any(part in name for part in ADAPTED)]
    parameters = {name.replace(".base_layer.", "."): parameter for name, parameter in named}
    whole = (*(source.adapter.get("modules_to_save") or ()), *CLASSIFIER_HEADS)
    copies = []
    for name, tensor in weights.items():
        inner = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        parameter = parameters.get(inner)
        if parameter is None or parameter.dtype.itemsize == 1 or is_within(inner.rpartition(".")[0], whole):
            continue
        shape = getattr(parameter, "ds_shape", parameter.shape)
        is_here = not parameter.is_meta and not is_partitioned(parameter)
        own = parameter.data if is_here else read_base_weight(source, inner)
        if shape != tensor.shape or (own is not None and not torch.equal(tensor.to(own), own)):
            raise HfkitError(
                f"the adapter {source.path} does not fit its base {source.base}: it has different weights for {inner}, "
                "trained or resized without modules_to_save: merge it with PEFT and use the result"
            )
        copies.append(name)
    return copies


def read_base_weight(source: Source, name: str) -> torch.Tensor | None:
    """Read one tensor of a base in a folder; return None if no file has a tensor of this name."""
    if not os.path.isdir(source.base):
        return None
    index = read_json(source.base, SAFE_WEIGHTS_INDEX_NAME) or {}
    file = find_file(source.base, index.get("weight_map", {}).get(name, SAFE_WEIGHTS_NAME))
    if file is None:
        return None
    with safe_open(file, "pt") as weights:
        return weights.get_tensor(name) if name in weights.keys() else None


def merge_adapter(model: PreTrainedModel, source: Source) -> PreTrainedModel:
    """Merge the adapter at `source` into its base and return the base with all weights trainable."""
    config = PeftConfig.from_pretrained(local_folder(source.path, source.revision, MODEL_FILES))
    config.task_type = None  # a language model's adapter may be loaded into a classifier
    adapted = load_adapter(model, source, to_merge=True, config=config, torch_device=str(model.device))
    untie_output_head(adapted)
    merged = adapted.merge_and_unload().requires_grad_(True)  # peft froze the base
    embedding, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    if head is not None and head.weight is not embedding.weight:  # one of the two was trained in full
        merged.config.get_text_config().tie_word_embeddings = merged.config.tie_word_embeddings = False
    if hasattr(merged, "score"):
        merged.score.to(merged.dtype)  # a model has one dtype when saved and loaded
    return merged


def untie_output_head(model: PeftModel) -> None:
    """Copy the weights of a tied output head if LoRA is on the head or the embedding.

    Merging into shared weights would apply the change of one to the other.
    """
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or not any(hasattr(end, "base_layer") for end in ends):
        return
    embedding, head = (getattr(end, "base_layer", end) for end in ends)
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        base.config.tie_word_embeddings = False
