"""The config fields that stages share, in groups: data, model, optimizer, trainer, output, Hub.

Nothing heavy is imported here: `hfkit sft --help` must not wait for torch.
"""

import importlib
import re
import typing
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from hfkit.config.card_names import card_names
from hfkit.config.learning_rates import SFT_RATES, LearningRates
from hfkit.core.file_types import COMPRESSED, FILE_TYPES
from hfkit.core.home import expand_home
from hfkit.core.hub_ids import split_revision

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["generate", "static", "continuous"]
PPOEngineName = Literal["generate", "static", "continuous", "vllm"]
ENGINE_HELP = (
    "how responses are sampled: generate (Transformers' generate), static (a static cache, compiled; CUDA graphs on a "
    "GPU), continuous (its continuous batching)"
)
Conversion = Literal[
    "transcript", "shared_prompt", "sharegpt", "function_calls", "history", "group_by_prompt", "drop_ties"
]
"""Conversions of rows; the functions are in `data/conversions.py`."""
DTYPES = typing.get_args(Dtype)
DEFAULT_LORA_RANK = 16
ALL_LINEAR = "all-linear"
MODULE_NAMES = re.compile(r"[\w\s.,]*")
REFUSED: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("refused.yaml").read_text(encoding="utf-8")
)
"""Fields of the trainers' configs that a YAML must not set, with what to do instead, by the groups of `refuses`."""


ROLES = {"start": ("model_name_or_path", "model_revision"), "reward": ("reward_model_path", "reward_model_revision")}
"""The roles of models in the lineage, each with the config keys of the model that has it and of its revision."""
REVISION_KEYS = {**dict(ROLES.values()), **dict.fromkeys(("tokenizer_name_or_path", "adapter", "base"))}
"""Every setting that names a model or a tokenizer, a merge's too, with the setting that names its revision, if any."""


def models_named(config) -> list[tuple[str, str, str]]:
    """Return role, path and revision of each model that a stage's config starts from."""
    found = [(role, getattr(config, path, None), getattr(config, key, "main")) for role, (path, key) in ROLES.items()]
    return [(role, path, revision) for role, path, revision in found if path]


def split_module_names(given: list[str] | str | None) -> list[str] | str | None:
    """Return modules as PEFT takes them: a list of names, also of `q_proj,v_proj`; all-linear; or a regular expression.

    PEFT takes a single string for a regular expression, which the name of one module would be too.
    """
    items = [given] if isinstance(given, str) else given or []
    if len(items) == 1 and not MODULE_NAMES.fullmatch(items[0]):
        return items[0].strip()
    split = [name for item in items for name in (item.split(",") if MODULE_NAMES.fullmatch(item) else [item])]
    return None if given is None else [name.strip() for name in split if name.strip()]


def arg(default: Any = MISSING, *, factory: Any = MISSING, help: str) -> Any:
    """Return a dataclass field with a help text, as Transformers' `HfArg` does."""
    return field(default=default, default_factory=factory, metadata={"help": help})


@dataclass(kw_only=True)
class DatasetEntry:
    """One source of rows: an item of `datasets`, `eval_datasets` and the like."""

    path: str | None = arg(
        None, help=f"Hub id, or a {'/'.join(FILE_TYPES)} file ({', '.join(COMPRESSED)} too), or a folder"
    )
    card: str | None = arg(None, help="name of a data card, or its .md file; replaces path")
    name: str | None = arg(None, help="configuration of a Hub dataset")
    revision: str | None = arg(None, help="branch, tag or commit of a Hub dataset")
    split: str = arg("train", help="split, with optional slicing: train[:1000]")
    columns: dict[str, str] | None = arg(None, help="maps the stage's columns to the dataset's: {prompt: instruction}")
    convert: list[Conversion] | None = arg(None, help="conversions of the mapped columns, as those of a data card")
    weight: float | None = arg(None, help="probability that the next row comes from this source")
    epochs: float | None = arg(None, help="how often a pass over the mixture may repeat its rows")
    rows: int | None = arg(None, help="maximum number of its rows")
    tokens: int | None = arg(None, help="maximum number of its tokens")
    streaming: bool = arg(False, help="stream the data: download only what rows or tokens need")

    def __post_init__(self) -> None:
        """Expand `~` in paths that code gives; those of a YAML and of flags are expanded before."""
        self.card = expand_home(self.card)
        if isinstance(self.path, str):  # Python code may pass rows
            self.path = expand_home(self.path)

    @classmethod
    def from_text(cls, text: str) -> "DatasetEntry":
        """Return the entry that a text names: a data card (its name or .md file), else a file, a folder or a Hub id."""
        is_card = text.endswith(".md") or (text in card_names() and not Path(text).exists())
        return cls(card=text) if is_card else cls(path=text)


class Fields:
    """A group of fields. Each group completes its own in `__post_init__`; this ends the chain of them."""

    def __post_init__(self) -> None:
        pass


@dataclass(kw_only=True)
class HubFields(Fields):
    """Whether and where a stage pushes to the Hub; these fields do not change what it makes."""

    push_to_hub: bool = arg(False, help="push the finished run to the Hub, as `hfkit push` does")
    hub_model_id: str | None = arg(None, help="USER/NAME; none: the name of output_dir")
    hub_private_repo: bool | None = arg(None, help="whether the repository is private; none: unchanged, true if new")
    hub_strategy: Literal["end", "every_save"] = arg("end", help="every_save also pushes each checkpoint's weights")
    hub_revision: str = arg("main", help="branch to push to")


@dataclass(kw_only=True)
class OutputFields(HubFields):
    """The fields of every stage: output folder, seed, license, further fields of the trainer."""

    output_dir: str = arg(help="folder of the run; hfkit never overwrites a finished run")
    seed: int = arg(42, help="seed for data order, NumPy, torch and new weights")
    license: str | None = arg(None, help="license of the output, for its model card: apache-2.0, mit, ...")
    extra: dict[str, Any] = arg(factory=dict, help="more fields of the trainer's config")

    # (module, name) of the trainer's config class; its other fields are accepted too, and land in `extra`.
    trainer_config: ClassVar[tuple[str, str] | None] = None
    # The groups of `refused.yaml` that name fields of it which are refused.
    refuses: ClassVar[tuple[str, ...]] = ("all",)

    @classmethod
    def extra_field(cls, name: str) -> Any:
        """Return the type of a field that only the trainer's config has; None if it has no such field."""
        config_class = cls.trainer_config_class()
        return config_class and typing.get_type_hints(config_class).get(name)

    @classmethod
    def refused_field(cls, name: str) -> str | None:
        """Return what to do instead of setting a field that hfkit refuses; None for any other field."""
        return next((REFUSED[group][name] for group in cls.refuses if name in REFUSED[group]), None)

    @classmethod
    def trainer_config_class(cls) -> type | None:
        """Return the trainer's config class, imported on demand because it imports torch."""
        if cls.trainer_config is None:
            return None
        module, name = cls.trainer_config
        return getattr(importlib.import_module(module), name)


@dataclass(kw_only=True)
class SourceFields:
    """The rows that a stage trains on."""

    datasets: list[DatasetEntry] = arg(factory=list, help="training data: sources are concatenated, or mixed by weight")


@dataclass(kw_only=True)
class DataFields(SourceFields):
    """Adds held-out rows, and how many rows may be dropped."""

    eval_datasets: list[DatasetEntry] = arg(factory=list, help="held-out data")
    test_split_size: float | None = arg(None, help="share (<1) or number of rows to hold out; not with eval_datasets")
    dataset_num_proc: int | None = arg(None, help="processes that tokenize; none: depends on rows and CPU cores")
    max_dropped: float = arg(0.1, help="maximum share of dropped or truncated rows; more is an error")


@dataclass(kw_only=True)
class ModelFields(Fields):
    """The model that a stage starts from, how to load it and whether to train an adapter."""

    model_name_or_path: str | None = arg(None, help="model or adapter to start from: folder, or Hub id[@REVISION]")
    model_revision: str = arg("main", help="branch, tag or commit of a Hub model")
    dtype: Dtype | None = arg(
        None,
        help="dtype of the base model's weights; auto: as in the checkpoint; none: float32, but bfloat16 for a frozen "
        "base that comes in 16 bits, on a GPU with bf16",
    )
    attn_implementation: str | None = arg(None, help="eager, sdpa, flash_attention_2, ...")
    pad_token: str | None = arg(None, help="token of the vocabulary to pad with, if the tokenizer pads with EOS")
    chat_template: str | None = arg(
        None,
        help="Jinja file, or the name of one of the tokenizer's templates or of a built-in one (chatml, gemma, llama3, "
        "mistral, qwen3, zephyr); none: its default",
    )
    chat_template_kwargs: dict[str, Any] = arg(
        factory=dict, help="variables of the chat template: {enable_thinking: false}; saved with the tokenizer"
    )
    system_prompt: str | None = arg(
        None,
        help="system text of conversations that have none; saved with the tokenizer; none: as saved; '': remove it",
    )
    allow_pickle: bool = arg(False, help="load pickled .bin weights if there are no safetensors")
    use_peft: bool = arg(False, help="train a LoRA adapter and freeze the base model")
    lora_r: int | None = arg(None, help=f"LoRA rank; none: {DEFAULT_LORA_RANK}, or as the starting adapter")
    lora_alpha: int | None = arg(None, help="LoRA scale; none: 2 * lora_r, or as the starting adapter")
    lora_dropout: float = arg(0.05, help="dropout on the adapter's input while training")
    lora_target_modules: list[str] | str | None = arg(
        None, help=f"modules to adapt: names, a regular expression or {ALL_LINEAR}; none: all linear but the head"
    )
    modules_to_save: list[str] | str | None = arg(
        None, help="modules to train whole, and to save with the adapter: embed_tokens, lm_head"
    )
    use_dora: bool = arg(False, help="DoRA: LoRA that trains the norms of the matrices apart (arXiv 2402.09353)")
    use_rslora: bool = arg(False, help="rank-stabilized LoRA: scale by alpha/sqrt(r) (arXiv 2312.03732)")
    load_in_4bit: bool = arg(False, help="quantize the frozen base model to 4 bits (QLoRA)")
    load_in_8bit: bool = arg(False, help="quantize the frozen base model to 8 bits (LLM.int8)")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = arg("nf4", help="data type of 4-bit weights")
    use_bnb_nested_quant: bool = arg(True, help="quantize the 4-bit scales too")

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.model_name_or_path, str) and self.model_name_or_path:
            self.model_name_or_path, self.model_revision = split_revision(self.model_name_or_path, self.model_revision)
        self.lora_target_modules = split_module_names(self.lora_target_modules)
        whole = split_module_names(self.modules_to_save)
        self.modules_to_save = [whole] if isinstance(whole, str) else whole


@dataclass(kw_only=True)
class OptimizerFields(Fields):
    """Batch sizes, optimizer and precision, with the names of `TrainingArguments`."""

    per_device_train_batch_size: int = arg(8, help="rows in one forward pass, on each device")
    per_device_eval_batch_size: int = arg(8, help="rows in one evaluation pass, on each device")
    max_tokens_per_micro_batch: int | None = arg(
        None, help="maximum tokens in one forward pass; none: per_device_train_batch_size rows of the maximum length"
    )
    micro_batches_by_length: bool = arg(
        True, help="cut the rows of a step into passes of like length: the same training without padding"
    )
    gradient_accumulation_steps: int = arg(1, help="forward passes in one optimizer step")
    num_train_epochs: float = arg(1.0, help="passes over the training rows")
    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {SFT_RATES}")
    lr_scheduler_type: str = arg("linear", help="linear, cosine, constant, ...")
    warmup_steps: float = arg(0, help="steps of warm-up, or their share if below 1")
    weight_decay: float = arg(0.0, help="weight decay of AdamW")
    max_grad_norm: float = arg(1.0, help="maximum norm of the gradients; larger ones are clipped")
    optim: str | None = arg(None, help="optimizer; none: adamw_torch, on a GPU adamw_torch_fused")
    bf16: bool | None = arg(None, help="bf16 autocast; none: on if the GPU supports it")
    gradient_checkpointing: bool | None = arg(
        None, help="recompute activations to save memory; none: on for a GPU whose free memory is too small without"
    )
    report_to: str = arg("none", help="experiment tracker: tensorboard, wandb, trackio, none, ...")
    run_name: str | None = arg(None, help="name of the run in the experiment tracker")

    learning_rates: ClassVar[LearningRates] = SFT_RATES

    def __post_init__(self):
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = self.learning_rates.of(getattr(self, "use_peft", False)).default


@dataclass(kw_only=True)
class TrainerFields(OptimizerFields):
    """Adds length of the run, logging, evaluation and checkpoints, with the names of `TrainingArguments`."""

    max_steps: int = arg(-1, help="number of optimizer steps; overrides num_train_epochs")
    logging_steps: float = arg(10, help="steps between lines of metrics.jsonl")
    eval_strategy: Literal["no", "steps", "epoch"] = arg("no", help="when to evaluate")
    eval_steps: float | None = arg(None, help="steps between evaluations")
    save_strategy: Literal["no", "steps", "epoch"] = arg("steps", help="when to save a checkpoint")
    save_steps: float = arg(500, help="steps between checkpoints")
    save_total_limit: int | None = arg(2, help="number of checkpoints to keep")
    load_best_model_at_end: bool = arg(False, help="publish the best checkpoint; metrics and card are its own")
    early_stopping_patience: int | None = arg(None, help="stop after this many evaluations without improvement")
    resume_from_checkpoint: bool = arg(False, help="resume from the last complete checkpoint in output_dir")
