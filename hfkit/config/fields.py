"""The config fields that stages share, in groups: data, model, output, Hub; `trainer_fields.py` has more.

This module imports no heavy library: `hfkit sft --help` must not wait for torch.
"""

import importlib
import re
import typing
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from hfkit.config.card_names import card_names
from hfkit.core.file_types import COMPRESSED, FILE_TYPES
from hfkit.core.home import expand_home
from hfkit.core.hub_ids import split_revision

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["generate", "static", "continuous"]
PPOEngineName = Literal["generate", "static", "continuous", "vllm"]
ENGINE_HELP = (
    "engine that samples responses: generate (Transformers' generate), static (compiled, with a static cache; CUDA "
    "graphs on a GPU), continuous (Transformers' continuous batching)"
)
Conversion = Literal[
    "transcript", "shared_prompt", "sharegpt", "function_calls", "history", "group_by_prompt", "drop_ties"
]
"""Conversions of rows; their functions are in `data/conversions.py`."""
DTYPES = typing.get_args(Dtype)
DEFAULT_LORA_RANK = 16
ALL_LINEAR = "all-linear"
MODULE_NAMES = re.compile(r"[\w\s.,]*")
REFUSED: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("refused.yaml").read_text(encoding="utf-8")
)
"""Fields of the trainers' configs that a YAML must not set, with what to do instead, by group (see `refuses`)."""


ROLES = {"start": ("model_name_or_path", "model_revision"), "reward": ("reward_model_path", "reward_model_revision")}
"""The roles of models in the lineage, each with the config keys of the model and of its revision."""
REVISION_KEYS = {**dict(ROLES.values()), **dict.fromkeys(("tokenizer_name_or_path", "adapter", "base"))}
"""Every key that names a model or a tokenizer, of `hfkit merge` too, with the key of its revision, if any."""


def models_named(config) -> list[tuple[str, str, str]]:
    """Return role, path and revision of each model that a stage's config starts from."""
    found = [(role, getattr(config, path, None), getattr(config, key, "main")) for role, (path, key) in ROLES.items()]
    return [(role, path, revision) for role, path, revision in found if path]


def split_module_names(given: list[str] | str | None) -> list[str] | str | None:
    """Return modules as PEFT expects them: a list of names (also for `q_proj,v_proj`), all-linear, or a regex.

    PEFT reads a single string as a regular expression, even if it is the name of one module.
    """
    items = [given] if isinstance(given, str) else given or []
    if len(items) == 1 and not MODULE_NAMES.fullmatch(items[0]):
        return items[0].strip()
    split = [name for item in items for name in (item.split(",") if MODULE_NAMES.fullmatch(item) else [item])]
    return None if given is None else [name.strip() for name in split if name.strip()]


def arg(
    default: Any = MISSING, *, factory: Any = MISSING, help: str, means: dict | None = None, remedy: str = ""
) -> Any:
    """Return a dataclass field with a help text, as Transformers' `HfArg` does.

    Args:
        means: values that other libraries accept for this key -> the values that hfkit uses for them.
        remedy: what to do instead, added to the problem of a value that does not fit.
    """
    metadata = {"help": help} | ({"means": means} if means else {}) | ({"remedy": remedy} if remedy else {})
    return field(default=default, default_factory=factory, metadata=metadata)


@dataclass(kw_only=True)
class DatasetEntry:
    """One source of rows: an item of `datasets`, `eval_datasets`, `prompts` or `ptx_datasets`."""

    path: str | None = arg(
        None, help=f"Hub id, or a {'/'.join(FILE_TYPES)} file ({', '.join(COMPRESSED)} too), or a folder"
    )
    card: str | None = arg(None, help="name of a data card, or its .md file; replaces path")
    name: str | None = arg(None, help="configuration (subset) of a Hub dataset")
    revision: str | None = arg(None, help="branch, tag or commit of a Hub dataset")
    split: str = arg("train", help="split, with optional slicing: train[:1000]")
    columns: dict[str, str] | None = arg(None, help="maps the stage's columns to the dataset's: {prompt: instruction}")
    convert: list[Conversion] | None = arg(None, help="conversions of the mapped columns, as in a data card")
    weight: float | None = arg(None, help="probability that the next row comes from this source; none: unweighted")
    epochs: float | None = arg(None, help="how often one pass over the mixture may repeat this source; none: once")
    rows: int | None = arg(None, help="maximum number of rows from this source; none: all")
    tokens: int | None = arg(None, help="maximum number of tokens from this source; none: all")
    streaming: bool = arg(False, help="stream the data: download only as much as rows or tokens require")

    def __post_init__(self) -> None:
        """Expand `~` in paths from Python code; those of a YAML and of flags are already expanded."""
        self.card = expand_home(self.card)
        if isinstance(self.path, str):  # Python code may pass rows
            self.path = expand_home(self.path)

    @classmethod
    def from_text(cls, text: str) -> "DatasetEntry":
        """Return the entry for a text: the name or .md file of a data card, else a file, a folder or a Hub id."""
        is_card = text.endswith(".md") or (text in card_names() and not Path(text).exists())
        return cls(card=text) if is_card else cls(path=text)


class OpenLength(int):
    """The default of a length in tokens, of a key that is not set: it is lowered to the context of the model."""


yaml.SafeDumper.add_representer(OpenLength, yaml.SafeDumper.represent_int)


class Fields:
    """A group of fields. Each group completes its fields in `__post_init__`; this one ends the chain of calls."""

    def __post_init__(self) -> None:
        pass


@dataclass(kw_only=True)
class HubFields(Fields):
    """Whether and where a stage pushes to the Hub; these fields do not change its output."""

    push_to_hub: bool = arg(False, help="push the finished run to the Hub, as `hfkit push` does")
    hub_model_id: str | None = arg(None, help="Hub repository to push to, USER/NAME; none: the name of output_dir")
    hub_private_repo: bool | None = arg(
        None, help="whether the Hub repository is private; none: true for a new one, unchanged otherwise"
    )
    hub_strategy: Literal["end", "every_save"] = arg(
        "end", help="when to push: end of the run, or every_save: also the weights of each checkpoint"
    )
    hub_revision: str = arg("main", help="branch of the Hub repository to push to", means={None: "main"})


@dataclass(kw_only=True)
class OutputFields(HubFields):
    """The fields of every stage: output folder, seed, license, further fields of the trainer."""

    output_dir: str = arg(help="folder of the run; hfkit never overwrites a finished run")
    seed: int = arg(42, help="random seed for data order, NumPy, torch and new weights")
    license: str | None = arg(None, help="license in the output's model card: apache-2.0, mit, ...; none: not stated")
    extra: dict[str, Any] = arg(factory=dict, help="more fields of the trainer's config")

    # (module, name) of the trainer's config class; its other fields are accepted too, and stored in `extra`.
    trainer_config: ClassVar[tuple[str, str] | None] = None
    # The groups of `refused.yaml` with the fields of that class that are refused.
    refuses: ClassVar[tuple[str, ...]] = ("all",)

    @classmethod
    def extra_field(cls, name: str) -> Any:
        """Return the type of a field that only the trainer's config has; None if there is no such field."""
        config_class = cls.trainer_config_class()
        return config_class and typing.get_type_hints(config_class).get(name)

    @classmethod
    def refused_field(cls, name: str) -> str | None:
        """Return what to do instead of setting a field that hfkit refuses; None for any other field."""
        return next((REFUSED[group][name] for group in cls.refuses if name in REFUSED[group]), None)

    @classmethod
    def trainer_config_class(cls) -> type | None:
        """Return the trainer's config class; import it on demand, since it imports torch."""
        if cls.trainer_config is None:
            return None
        module, name = cls.trainer_config
        return getattr(importlib.import_module(module), name)


@dataclass(kw_only=True)
class SourceFields:
    """The rows that a stage trains on."""

    datasets: list[DatasetEntry] = arg(
        factory=list, help="training data: files, folders, Hub ids or data cards; concatenated, or mixed by weight"
    )


@dataclass(kw_only=True)
class DataFields(SourceFields):
    """Adds held-out rows, and the limit on dropped rows."""

    eval_datasets: list[DatasetEntry] = arg(factory=list, help="held-out data")
    test_split_size: float | None = arg(
        None, help="share (below 1) or number of training rows to hold out; not with eval_datasets"
    )
    dataset_num_proc: int | None = arg(None, help="number of processes that tokenize; none: by rows and CPU cores")
    max_dropped: float = arg(0.1, help="maximum share of dropped rows; a larger share is an error")


@dataclass(kw_only=True)
class ModelFields(Fields):
    """The model that a stage starts from, how to load it, and whether to train an adapter."""

    model_name_or_path: str | None = arg(None, help="model or adapter to start from: folder or Hub id[@REVISION]")
    model_revision: str = arg("main", help="branch, tag or commit of a Hub model")
    dtype: Dtype | None = arg(
        None,
        help="dtype of the base model's weights; auto: as in the checkpoint; none: bfloat16 for a frozen base that is "
        "stored in 16 bits, on a GPU with bf16; else float32",
        means={
            short: name
            for name, shorts in {"float32": ("fp32",), "bfloat16": ("bf16",), "float16": ("fp16", "half")}.items()
            for short in (*shorts, f"torch.{name}")
        },
    )
    attn_implementation: str | None = arg(
        None, help="attention implementation: eager, sdpa, flash_attention_2, ...; none: Transformers' default"
    )
    pad_token: str | None = arg(
        None, help="existing token to pad with; none: the tokenizer's, or an unused one if that is EOS"
    )
    chat_template: str | None = arg(
        None,
        help="Jinja file, or the name of one of the tokenizer's templates or of a built-in one (chatml, gemma, llama3, "
        "mistral, qwen3, zephyr); none: the tokenizer's default",
    )
    chat_template_kwargs: dict[str, Any] = arg(
        factory=dict, help="variables of the chat template: {enable_thinking: false}; saved with the tokenizer"
    )
    system_prompt: str | None = arg(
        None,
        help="system text of conversations without one, saved with the tokenizer; none: the saved one; '': none at all",
    )
    allow_pickle: bool = arg(False, help="load pickled .bin weights if there are no safetensors; a pickle can run code")
    use_peft: bool = arg(False, help="train a LoRA adapter and freeze the base model; false: train all weights")
    lora_r: int | None = arg(None, help=f"LoRA rank; none: {DEFAULT_LORA_RANK}, or that of the starting adapter")
    lora_alpha: int | None = arg(None, help="LoRA alpha; none: 2 * lora_r, or that of the starting adapter")
    lora_dropout: float = arg(0.05, help="dropout probability on the adapter's input in training")
    lora_target_modules: list[str] | str | None = arg(
        None,
        help=f"modules to adapt: names, a regular expression or {ALL_LINEAR}; none: all linear but the head; in a "
        "multimodal model, those of its text model",
    )
    modules_to_save: list[str] | str | None = arg(
        None,
        help="modules to train in full and save with the adapter, such as embed_tokens; none: no module",
    )
    use_dora: bool = arg(False, help="DoRA: LoRA that trains the norms of the matrices separately (arXiv 2402.09353)")
    use_rslora: bool = arg(False, help="rank-stabilized LoRA: scale updates by alpha/sqrt(r) (arXiv 2312.03732)")
    load_in_4bit: bool = arg(False, help="quantize the frozen base model to 4 bits (QLoRA)")
    load_in_8bit: bool = arg(False, help="quantize the frozen base model to 8 bits (LLM.int8)")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = arg("nf4", help="data type of 4-bit weights")
    use_bnb_nested_quant: bool = arg(True, help="quantize the scales of 4-bit weights too (double quantization)")

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.model_name_or_path, str) and self.model_name_or_path:
            self.model_name_or_path, self.model_revision = split_revision(self.model_name_or_path, self.model_revision)
        self.lora_target_modules = split_module_names(self.lora_target_modules)
        whole = split_module_names(self.modules_to_save)
        self.modules_to_save = [whole] if isinstance(whole, str) else whole
