"""Tokenizers, bases and adapters: everything that is loaded from a folder or from the Hub.

A path may name a full model or a LoRA adapter; an adapter brings its base with it. Weights are read from
safetensors, and no code that comes with a model is run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from trl.trainer.reward_trainer import suppress_seqcls_warning

from hfkit.errors import HfkitError, reason

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Tokens that models ship with and that never stand in a conversation, in the order of preference for padding.
PAD_CANDIDATES = (
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<unk>",
    "<|endoftext|>",
)


@dataclass(frozen=True)
class Source:
    """Where a model lies: its base, and the adapter on it if the path named an adapter."""

    path: str
    revision: str
    base: str
    base_revision: str
    adapter: dict | None

    @classmethod
    def of(cls, path: str, revision: str = "main") -> "Source":
        """Reads the adapter config, if there is one; no weights."""
        adapter = read_json(path, ADAPTER_CONFIG, revision)
        if adapter is None:
            return cls(path, revision, path, revision, None)
        base = adapter.get("base_model_name_or_path") or ""
        return cls(path, revision, base, adapter.get("revision") or "main", adapter)


def find_file(path: str, name: str, revision: str = "main") -> Path | None:
    """The file `name` of a model folder or Hub repository, fetched if need be; None where there is no such file."""
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except (EntryNotFoundError, LocalEntryNotFoundError):  # the latter: offline, and not in the cache
        return None


def read_json(path: str, name: str, revision: str = "main") -> dict | None:
    """The JSON file `name` of a model folder or Hub repository, or None where there is no such file.

    Raises:
        HfkitError: it holds no mapping.
    """
    file = find_file(path, name, revision)
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else None
    except ValueError as error:
        raise HfkitError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, (dict, NoneType)):
        raise HfkitError(f"{file} is not a JSON mapping")
    return content


def load_tokenizer(
    path: str,
    revision: str = "main",
    pad_token: str | None = None,
    chat_template: str | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a pad token that is not its EOS.

    With pad == EOS, masks made from the pad token take the EOS with them and the model never learns to stop. A token
    that is in the vocabulary already is used, so the embedding does not grow.

    Raises:
        HfkitError: no token to pad with; name one with `pad_token`.
        ValueError: no EOS.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    if tokenizer.eos_token is None:
        raise ValueError("it has no EOS token, so nothing could say where a text ends")
    if chat_template is not None:
        tokenizer.chat_template = Path(chat_template).read_text()
    vocabulary = tokenizer.get_vocab()
    if pad_token is None and tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return tokenizer
    usable = [token for token in PAD_CANDIDATES if token in vocabulary and token != tokenizer.eos_token]
    pad_token = pad_token or next(iter(usable), None)
    if pad_token is None or pad_token not in vocabulary or pad_token == tokenizer.eos_token:
        raise HfkitError(
            f"{path} has no token to pad with apart from its EOS {tokenizer.eos_token!r} (pad_token: {pad_token}). "
            "Set pad_token to a token of the vocabulary that your texts never contain."
        )
    tokenizer.pad_token = pad_token
    return tokenizer


def load_base(
    path: str,
    revision: str = "main",
    *,
    head: type = AutoModelForCausalLM,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    quantization: BitsAndBytesConfig | None = None,
    allow_pickle: bool = False,
) -> PreTrainedModel:
    """A model without adapters, on this process's device.

    Raises:
        HfkitError: the folder holds no safetensors weights, and `allow_pickle` is off; or they lack some of the model's
            (which would be random), or cannot be read.
    """
    options = {"num_labels": 1} if head is AutoModelForSequenceClassification else {}
    if quantization is not None:
        options["device_map"] = {"": device()}
    try:
        with suppress_seqcls_warning():
            model, loaded = head.from_pretrained(
                path,
                revision=revision,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                attn_implementation=attn_implementation,
                quantization_config=quantization,
                use_safetensors=None if allow_pickle else True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # whatever a library says of a folder's content
        raise HfkitError(f"cannot load {path}: {reason(error)}") from error
    missing = sorted(loaded["missing_keys"])
    if head is AutoModelForSequenceClassification:  # its head may be new
        missing = [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    if missing:
        shown = ", ".join(missing[:3])
        raise HfkitError(
            f"{path} lacks {len(missing)} weights of a {type(model).__name__}, which would be random: {shown}"
        )
    return keep_unpacked(model) if quantization is not None else model.to(device())


def keep_unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """Keeps bitsandbytes from repacking 4-bit weights on a CPU with AVX512-BF16 when they are first evaluated.

    No gradient comes through the packed weights: after an evaluation, LoRA would train on wrong ones, silently.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def device() -> torch.device:
    """This process's device: its GPU where there is one, else the CPU."""
    from accelerate import PartialState

    return PartialState().device


def quantization_of(config) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings from a stage's config; computes in bf16 where the device has it, else in fp32."""
    if not config.load_in_4bit:
        return None
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=config.use_bnb_nested_quant,
        bnb_4bit_compute_dtype=torch.bfloat16 if on_gpu else torch.float32,
    )


def lora_config(config, source: Source, task_type: TaskType) -> LoraConfig:
    """The LoRA of a stage: the starting adapter's shape where there is one, else the config's."""
    start = source.adapter or {}
    rank = start.get("r") or config.lora_r or 16
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


def load_trainable(config, task_type: TaskType = TaskType.CAUSAL_LM) -> PreTrainedModel | PeftModel:
    """The model that a stage trains, started from `config.model_name_or_path`.

    With LoRA: the untouched base with one trainable adapter, which begins as a copy of the starting adapter (so that
    what is saved stands on the base alone). Without: the full model, a starting adapter merged into it.
    A scalar head (`task_type=SEQ_CLS`) is always trainable and saved.
    """
    source = Source.of(config.model_name_or_path, config.model_revision)
    model = load_base(
        source.base,
        source.base_revision,
        head=HEADS[task_type],
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        quantization=quantization_of(config),
        allow_pickle=config.allow_pickle,
    )
    if not config.use_peft:
        return merge_adapter(model, source) if source.adapter else model
    if config.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    try:
        model = get_peft_model(model, lora_config(config, source, task_type))
    except ValueError as error:
        raise HfkitError(f"no adapter can be put on {source.base}: {reason(error)}; see lora_target_modules") from error
    peft_config = model.peft_config["default"]
    # a folder by its whole path: an adapter is opened from anywhere
    base = str(Path(source.base).resolve()) if Path(source.base).is_dir() else source.base
    peft_config.base_model_name_or_path, peft_config.revision = base, source.base_revision
    if source.adapter:
        load_adapter_weights(model, source)
    return model


HEADS = {TaskType.CAUSAL_LM: AutoModelForCausalLM, TaskType.SEQ_CLS: AutoModelForSequenceClassification}


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


def with_adapter(model: PreTrainedModel, source: Source, **options) -> PeftModel:
    """The model under the adapter of a path, frozen.

    Raises:
        HfkitError: the adapter does not fit, or is not in safetensors.
    """
    adapter_weights(source)
    try:
        return PeftModel.from_pretrained(model, source.path, revision=source.revision, **options)
    except (RuntimeError, ValueError) as error:
        raise HfkitError(f"the adapter {source.path} does not fit its base {source.base}: {reason(error)}") from error


def load_adapter_weights(model: PeftModel, source: Source) -> None:
    """Copies an adapter's LoRA tensors (and its head, if both have one) into the model's own adapter."""
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
    config = PeftConfig.from_pretrained(source.path, revision=source.revision)
    config.task_type = None  # a language model's adapter may go into a classifier
    merged = with_adapter(model, source, config=config).merge_and_unload()
    return merged.requires_grad_(True)  # peft froze the base


def load_policy(path: str, revision: str = "main", **options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM to generate with, in eval mode, and its tokenizer, from a full model or an adapter.

    Args:
        path: folder or Hub id.
        revision: branch, tag or commit.
        options: `dtype` (default "float32"), `attn_implementation`, `quantization`, `allow_pickle`.
    """
    source = Source.of(path, revision)
    model = load_base(source.base, source.base_revision, **options)
    if source.adapter:
        model = with_adapter(model, source)
    tokenizer = load_tokenizer(path, revision)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def load_classifier(path: str, revision: str = "main", **options) -> PreTrainedModel | PeftModel:
    """A reward model with its trained head, from a full model or an adapter, in eval mode.

    Raises:
        HfkitError: the path holds no one-label reward model (a random head would score at random).
    """
    source = Source.of(path, revision)
    if source.adapter is None:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        if config.num_labels != 1 or "ForSequenceClassification" not in str(config.architectures):
            raise HfkitError(
                f"{path} is a {config.architectures} with num_labels={config.num_labels}; a reward model is a sequence "
                "classifier with one label: train one with `hfkit reward`"
            )
        return load_base(path, revision, head=AutoModelForSequenceClassification, **options).eval()
    if source.adapter.get("task_type") != "SEQ_CLS":
        raise HfkitError(f"{path} is a {source.adapter.get('task_type')} adapter, not a reward model (SEQ_CLS)")
    if not any("score" in name for name in adapter_weights(source)):
        raise HfkitError(f"{path} was saved without its score head, so its rewards would be random")
    model = load_base(source.base, source.base_revision, head=AutoModelForSequenceClassification, **options)
    return with_adapter(model, source).eval()
