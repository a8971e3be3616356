"""The fields that the stages' configs share, in groups: rows, model, optimizer, trainer, output, Hub.

Nothing heavy is imported here: `hfkit sft --help` must not wait for torch.
"""

import importlib
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from hfkit.core.hub_ids import split_revision

# Fields of the trainers' configs that hfkit sets itself, with what to use instead.
REFUSED = {
    "model_init_kwargs": "hfkit loads the model: set dtype, attn_implementation, load_in_4bit or model_revision",
    "trust_remote_code": "hfkit runs no code that comes with a model; use an architecture of Transformers",
    "dataset_kwargs": "hfkit tokenizes the rows itself: set datasets and max_length",
    "dataset_text_field": "map the column instead: datasets: [{path: ..., columns: {text: YOUR_COLUMN}}]",
    "completion_only_loss": "the loss is on replies wherever rows have replies, and on all of a plain text",
    "assistant_only_loss": "the loss is on every assistant turn already",
    "chat_template_path": "set chat_template to a Jinja file",
    "eos_token": "the end-of-text token is the tokenizer's: train the tokenizer with the one you want",
    "truncation_mode": "rows are cut at their end; a row whose reply is cut off whole is dropped, and counted",
    "packing": "only pretrain and sft pack",
    "padding_free": "a packed batch is free of padding: set packing",
    "eval_packing": "held-out rows are never packed, so that their loss is that of a run without packing",
    "packing_strategy": "rows are packed whole, best fit first (bfd)",
    "remove_unused_columns": "hfkit hands the trainer the columns that it reads and no others",
    "overwrite_output_dir": "hfkit never overwrites a run: choose another output_dir",
    "do_train": "a stage trains; that is all it does",
    "ignore_data_skip": "a resumed run would see other data than an uninterrupted one",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed: set save_strategy: 'no' instead",
    "hub_token": "a token has no place in a config: `hf auth login`, or set HF_TOKEN",
    "hub_always_push": "each push is made to its end before training goes on",
    "local_rank": "the launcher sets it: accelerate launch",
    "use_liger_kernel": "not supported yet",
    "shuffle_dataset": "the trainer shuffles the rows in each epoch anyway, by seed",
    "include_num_input_tokens_seen": "tokens are always counted",
    "do_eval": "set eval_strategy",
    "do_predict": "set eval_strategy",
}


@dataclass(kw_only=True)
class DatasetEntry:
    """One source of rows: an item of `datasets` or `eval_datasets`."""

    path: str | None = field(
        default=None, metadata={"help": "Hub id, or a .jsonl/.json/.parquet/.csv/.txt file (may be .gz)"}
    )
    card: str | None = field(default=None, metadata={"help": "data card, by name or as .md file, in place of path"})
    name: str | None = field(default=None, metadata={"help": "configuration of a Hub data set"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a Hub data set"})
    split: str = field(default="train", metadata={"help": "split, with slicing: train[:1000]"})
    columns: dict[str, str] | None = field(
        default=None, metadata={"help": "stage's column -> data set's column, as {prompt: instruction}"}
    )
    weight: float | None = field(default=None, metadata={"help": "probability that the next row is of this source"})
    epochs: float | None = field(default=None, metadata={"help": "times that its rows are there to draw from"})
    rows: int | None = field(default=None, metadata={"help": "at most so many of its rows"})
    tokens: int | None = field(default=None, metadata={"help": "at most so many of its tokens"})
    streaming: bool = field(default=False, metadata={"help": "fetch no more than rows or tokens ask for"})


@dataclass(kw_only=True)
class HubFields:
    """Whether and where a stage is pushed to the Hub; they change nothing in what it makes."""

    push_to_hub: bool = field(default=False, metadata={"help": "push the finished run, as `hfkit push` does"})
    hub_model_id: str | None = field(default=None, metadata={"help": "USER/NAME; default is output_dir's own name"})
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "default: as the repository is; a new one is private"}
    )
    hub_strategy: Literal["end", "every_save"] = field(
        default="end", metadata={"help": "every_save: the weights of each checkpoint too, as they come"}
    )
    hub_revision: str = field(default="main", metadata={"help": "branch to push to"})


@dataclass(kw_only=True)
class OutputFields(HubFields):
    """Where a stage writes and from which seed."""

    output_dir: str = field(metadata={"help": "folder of this run; a finished run in it is never overwritten"})
    seed: int = field(default=42, metadata={"help": "seed of the data order, of NumPy, of torch and of the weights"})
    license: str | None = field(default=None, metadata={"help": "of what is made, for its card: apache-2.0, mit, ..."})
    extra: dict[str, Any] = field(default_factory=dict, metadata={"help": "further fields of the trainer's config"})

    # The trainer's own config class as (module, name); its fields are accepted beside those named here.
    trainer_config = None

    @classmethod
    def extra_field(cls, name: str) -> Any:
        """Type of a field of the trainer's config that is not named here; None where there is no such field."""
        config_class = cls.trainer_config_class()
        return config_class and typing.get_type_hints(config_class).get(name)

    @classmethod
    def refused_field(cls, name: str) -> str | None:
        """What to do instead of setting a field that hfkit does not hand on; None for any other."""
        return REFUSED.get(name)

    @classmethod
    def trainer_config_class(cls) -> type | None:
        """The trainer's config class, imported on demand (it brings torch)."""
        if cls.trainer_config is None:
            return None
        module, name = cls.trainer_config
        return getattr(importlib.import_module(module), name)


@dataclass(kw_only=True)
class SourceFields:
    """The rows that a stage learns from."""

    datasets: list[DatasetEntry] = field(
        default_factory=list, metadata={"help": "training data, joined or mixed by weight"}
    )


@dataclass(kw_only=True)
class DataFields(SourceFields):
    """Adds the rows held out, and what may be lost of either."""

    eval_datasets: list[DatasetEntry] = field(default_factory=list, metadata={"help": "held-out data"})
    test_split_size: float | None = field(
        default=None,
        metadata={"help": "share (<1) or number of training rows to hold out, if no eval_datasets"},
    )
    dataset_num_proc: int | None = field(
        default=None, metadata={"help": "processes that tokenize; default by rows and cores"}
    )
    max_dropped: float = field(
        default=0.1, metadata={"help": "share of rows that may be dropped or cut before it is an error"}
    )


@dataclass(kw_only=True)
class ModelFields:
    """The model that a stage starts from, and how it is loaded and adapted."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "folder, or Hub id with or without @REVISION; model or adapter"}
    )
    model_revision: str = field(default="main", metadata={"help": "branch, tag or commit of a Hub model"})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "dtype of the base's weights; auto is the checkpoint's own"}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    pad_token: str | None = field(
        default=None,
        metadata={"help": "a token of the vocabulary to pad with, if the tokenizer's is its EOS"},
    )
    chat_template: str | None = field(default=None, metadata={"help": "Jinja file; default is the tokenizer's own"})
    allow_pickle: bool = field(default=False, metadata={"help": "load .bin weights where no safetensors exist"})
    use_peft: bool = field(default=False, metadata={"help": "train a LoRA adapter and leave the base as it is"})
    lora_r: int | None = field(default=None, metadata={"help": "rank; default 16, or the starting adapter's"})
    lora_alpha: int | None = field(default=None, metadata={"help": "scale; default 2r, or the starting adapter's"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout on the adapter's input"})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "modules to adapt; default all linear layers but the output head"}
    )
    use_rslora: bool = field(default=False, metadata={"help": "scale by alpha/sqrt(r) (arXiv 2312.03732)"})
    load_in_4bit: bool = field(default=False, metadata={"help": "hold the frozen base in 4 bits (QLoRA)"})
    load_in_8bit: bool = field(default=False, metadata={"help": "hold the frozen base in 8 bits (LLM.int8)"})
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = field(default="nf4", metadata={"help": "4-bit data type"})
    use_bnb_nested_quant: bool = field(default=True, metadata={"help": "quantize the scales too"})

    def __post_init__(self):
        if self.model_name_or_path:
            self.model_name_or_path, self.model_revision = split_revision(self.model_name_or_path, self.model_revision)


@dataclass(kw_only=True)
class OptimizerFields:
    """Batches, optimizer and precision: the same names in every stage that trains."""

    per_device_train_batch_size: int = field(default=8, metadata={"help": "rows in one forward pass"})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "rows in one evaluation pass"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "forward passes in one optimizer step"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the training rows"})
    learning_rate: float = field(default=2e-4, metadata={"help": "peak of the schedule"})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "linear, cosine, constant, ..."})
    warmup_steps: float = field(default=0, metadata={"help": "steps of warm-up, or their share if below 1"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's weight decay"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    optim: str | None = field(
        default=None,
        metadata={"help": "optimizer; default adamw_torch, on a GPU adamw_torch_fused"},
    )
    bf16: bool | None = field(default=None, metadata={"help": "bf16 autocast; default yes where the GPU has it"})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "recompute activations to save memory; default yes on a GPU"}
    )
    report_to: str = field(default="none", metadata={"help": "tensorboard, wandb, trackio, none, ..."})
    run_name: str | None = field(default=None, metadata={"help": "name shown by report_to"})


@dataclass(kw_only=True)
class TrainerFields(OptimizerFields):
    """What Transformers' Trainer adds: length of the run, evaluation, checkpoints, resuming."""

    max_steps: int = field(default=-1, metadata={"help": "optimizer steps; beats num_train_epochs"})
    logging_steps: float = field(default=10, metadata={"help": "steps between two lines of metrics.jsonl"})
    eval_strategy: Literal["no", "steps", "epoch"] = field(default="no", metadata={"help": "when to evaluate"})
    eval_steps: float | None = field(default=None, metadata={"help": "steps between evaluations"})
    save_strategy: Literal["no", "steps", "epoch"] = field(default="steps", metadata={"help": "when to checkpoint"})
    save_steps: float = field(default=500, metadata={"help": "steps between checkpoints"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    resume_from_checkpoint: bool = field(
        default=False, metadata={"help": "go on from the last complete checkpoint in output_dir"}
    )


DTYPES = ("bfloat16", "float16", "float32", "auto")
