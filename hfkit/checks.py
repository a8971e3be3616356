"""What can be told to be wrong before any weight is loaded: contradictions in a config and with what it names."""

import re
from functools import cache
from pathlib import Path

from hfkit.config import PPOConfig, PretrainConfig, SourceFields
from hfkit.errors import HfkitError, Problem

HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
POSITIVE = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("block_size", "max_length", "max_prompt_length", "response_length", "vocab_size", "logging_steps", "save_steps"),
    *("num_mini_batches", "num_ppo_epochs", "local_rollout_forward_batch_size", "temperature", "max_kl"),
    *("max_grad_norm", "lora_r", "lora_alpha"),
)


def problems_of(config) -> list[Problem]:
    """Every problem of a config; reads configs and tokenizers, never weights."""
    problems = [*data_problems(config)] if isinstance(config, SourceFields) else []
    if hasattr(config, "per_device_train_batch_size"):
        problems += number_problems(config)
    if hasattr(config, "use_peft"):
        problems += adapter_problems(config) + model_problems(config)
    if isinstance(config, PPOConfig):
        problems += ppo_problems(config)
    return problems


def number_problems(config) -> list[Problem]:
    """Numbers outside their range."""
    values = {name: getattr(config, name, None) for name in POSITIVE}
    problems = [Problem(k, v, "must be above 0") for k, v in values.items() if v is not None and v <= 0]
    if config.learning_rate < 0:
        problems.append(Problem("learning_rate", config.learning_rate, "must not be negative"))
    if getattr(config, "eval_strategy", "no") != "no" and not has_held_out(config):
        remedy = "needs held-out rows: set eval_datasets or test_split_size"
        problems.append(Problem("eval_strategy", config.eval_strategy, remedy))
    return problems


def has_held_out(config) -> bool:
    """Whether the config holds rows out."""
    return bool(config.eval_datasets) or config.test_split_size is not None


def data_problems(config) -> list[Problem]:
    """Sources that are missing or do not exist."""
    problems = []
    if not config.datasets:
        problems.append(Problem("datasets", [], "name at least one: datasets: [{path: FILE_OR_HUB_ID}]"))
    for key in ("datasets", "eval_datasets"):
        for place, entry in enumerate(getattr(config, key, [])):
            if not Path(entry.path).exists() and not HUB_ID.match(entry.path):
                problems.append(Problem(f"{key}[{place}].path", entry.path, "no such file, and not a Hub id"))
            elif not Path(entry.path).exists() and re.search(r"\.(jsonl?|csv|txt|parquet)(\.gz)?$", entry.path):
                problems.append(Problem(f"{key}[{place}].path", entry.path, "no such file"))
    if getattr(config, "eval_datasets", None) and config.test_split_size is not None:
        remedy = "eval_datasets are held out already: remove one of the two"
        problems.append(Problem("test_split_size", config.test_split_size, remedy))
    elif getattr(config, "test_split_size", None) is not None and config.test_split_size <= 0:
        problems.append(Problem("test_split_size", config.test_split_size, "a share below 1, or a number of rows"))
    return problems


def adapter_problems(config) -> list[Problem]:
    """LoRA and quantization that contradict each other."""
    problems = []
    if config.load_in_4bit and not config.use_peft:
        problems.append(Problem("load_in_4bit", True, "4-bit weights cannot be trained: set use_peft: true"))
    if not config.use_peft:
        for name in ("lora_r", "lora_alpha", "lora_target_modules"):
            if getattr(config, name) is not None:
                problems.append(Problem(name, getattr(config, name), "has no effect without use_peft: true"))
        if config.use_rslora:
            problems.append(Problem("use_rslora", True, "has no effect without use_peft: true"))
    if isinstance(config, PPOConfig) and config.lora_dropout:
        problems.append(Problem("lora_dropout", config.lora_dropout, "PPO runs without dropout: set 0"))
    if config.load_in_4bit and config.dtype == "auto":
        problems.append(Problem("dtype", "auto", "with load_in_4bit name it: bfloat16 on a GPU, else float32"))
    return problems


def model_problems(config) -> list[Problem]:
    """A model that does not exist, a context too short, a tokenizer without a pad token, a template not there."""
    if config.chat_template and not Path(config.chat_template).is_file():
        return [Problem("chat_template", config.chat_template, "no such file")]
    if isinstance(config, PretrainConfig):
        return pretrain_problems(config)
    if config.model_name_or_path is None:
        return [Problem("model_name_or_path", None, "missing: the model to start from")]
    return [
        *path_problems("model_name_or_path", config.model_name_or_path),
        *tokenizer_problems(config, "model_name_or_path", config.model_name_or_path, config.model_revision),
        *length_problems(config),
        *shape_problems(config),
    ]


def pretrain_problems(config: PretrainConfig) -> list[Problem]:
    """A pretrained model is made or continued, not both, and needs a tokenizer."""
    problems = []
    if bool(config.model_config) == bool(config.model_name_or_path):
        remedy = "set either model_config (a new model) or model_name_or_path (continue one)"
        problems.append(Problem("model_config", config.model_config, remedy))
    if config.model_config and config.use_peft:
        problems.append(Problem("use_peft", True, "a new model has no frozen base: train it in full"))
    if config.model_config:
        problems += architecture_problems(config)
    key = "tokenizer_name_or_path" if config.tokenizer_name_or_path else "model_name_or_path"
    if getattr(config, key) is None:
        return [*problems, Problem("tokenizer_name_or_path", None, "missing: a new model needs a tokenizer")]
    problems += path_problems(key, getattr(config, key))
    return problems + tokenizer_problems(config, key, getattr(config, key), "main") + length_problems(config)


def architecture_problems(config: PretrainConfig) -> list[Problem]:
    """`model_config` must name a causal language model, in fields that its architecture has."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    settings = dict(config.model_config)
    name = settings.pop("model_type", None)
    if name not in CAUSAL:
        return [Problem("model_config.model_type", name, "an architecture of AutoModelForCausalLM, as llama or gpt2")]
    known = AutoConfig.for_model(name)
    return [
        Problem(f"model_config.{key}", value, f"{type(known).__name__} has no such field")
        for key, value in settings.items()
        if not hasattr(known, key)
    ]


def path_problems(key: str, path: str) -> list[Problem]:
    """A local path must exist; anything else must look like a Hub id."""
    if Path(path).is_dir() or HUB_ID.match(path):
        return []
    return [Problem(key, path, "no such folder, and not a Hub id")]


def tokenizer_problems(config, key: str, path: str, revision: str) -> list[Problem]:
    """A tokenizer that cannot be read, or that has nothing to pad with but its EOS."""
    if path_problems(key, path):
        return []
    try:
        tokenizer_of(path, revision, config.pad_token)
    except HfkitError as error:
        return [Problem("pad_token", config.pad_token, str(error))]
    except (OSError, ValueError) as error:
        return [Problem(key, path, f"its tokenizer cannot be read: {str(error).splitlines()[0]}")]
    return []


def length_problems(config) -> list[Problem]:
    """Rows, or prompts with their replies, must fit into the model's context."""
    limit = context_length(config)
    if limit is None:
        return []
    for name in ("block_size", "max_length"):
        if getattr(config, name, 0) > limit:
            return [Problem(name, getattr(config, name), f"the model's context is {limit} tokens")]
    if isinstance(config, PPOConfig) and config.max_prompt_length + config.response_length > limit:
        remedy = f"with max_prompt_length={config.max_prompt_length} it passes the model's context of {limit} tokens"
        return [Problem("response_length", config.response_length, remedy)]
    return []


def context_length(config) -> int | None:
    """Positions of the model that a config starts from or makes; None where it has no limit."""
    if getattr(config, "model_config", None):
        return config.model_config.get("max_position_embeddings") or config.model_config.get("n_positions")
    if config.model_name_or_path is None or path_problems("", config.model_name_or_path):
        return None
    try:
        text_config = config_of(config.model_name_or_path, config.model_revision).get_text_config()
    except (OSError, ValueError):
        return None
    return getattr(text_config, "max_position_embeddings", None)


def shape_problems(config) -> list[Problem]:
    """LoRA settings that differ from those of the adapter that is gone on from."""
    from hfkit.models import Source

    if path_problems("", config.model_name_or_path):
        return []
    adapter = Source.of(config.model_name_or_path, config.model_revision).adapter
    if adapter is None or not config.use_peft:
        return []
    return [
        Problem(name, getattr(config, name), f"the adapter it starts from has {adapter[theirs]}: leave it out")
        for name, theirs in (("lora_r", "r"), ("lora_alpha", "lora_alpha"))
        if getattr(config, name) not in (None, adapter[theirs])
    ]


def ppo_problems(config: PPOConfig) -> list[Problem]:
    """The reward model's side: there, one label, and of the policy's tokenizer; batches that divide."""
    problems = []
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if batch % config.num_mini_batches or config.gradient_accumulation_steps % config.num_mini_batches:
        remedy = "must divide gradient_accumulation_steps: an optimizer step is a whole number of forward passes"
        problems.append(Problem("num_mini_batches", config.num_mini_batches, remedy))
    if config.whiten_rewards and batch // config.num_mini_batches < 8:
        problems.append(Problem("whiten_rewards", True, "needs mini-batches of 8 replies or more"))
    if config.reward_model_path is None:
        return [*problems, Problem("reward_model_path", None, "missing: a model from `hfkit reward`")]
    wrong = path_problems("reward_model_path", config.reward_model_path)
    if wrong or config.model_name_or_path is None or path_problems("", config.model_name_or_path):
        return problems + wrong
    return problems + agreement_problems(config)


def agreement_problems(config: PPOConfig) -> list[Problem]:
    """Policy and reward model must read the same ids and the same template."""
    try:
        policy = tokenizer_of(config.model_name_or_path, config.model_revision, config.pad_token)
        reward = tokenizer_of(config.reward_model_path, config.reward_model_revision, config.pad_token)
    except (HfkitError, OSError, ValueError):
        return []  # told by tokenizer_problems
    path = config.reward_model_path
    if policy.get_vocab() != reward.get_vocab():
        remedy = f"its vocabulary ({len(reward)} tokens) is not the policy's ({len(policy)}): same tokenizer, please"
        return [Problem("reward_model_path", path, remedy)]
    if policy.chat_template != reward.chat_template:
        return [Problem("reward_model_path", path, "its chat template is not the policy's: train both with one")]
    return []


@cache
def tokenizer_of(path: str, revision: str, pad_token: str | None):
    """The tokenizer of a path, read once."""
    from hfkit.models import load_tokenizer

    return load_tokenizer(path, revision, pad_token)


@cache
def config_of(path: str, revision: str):
    """The config of a path's base, read once."""
    from transformers import AutoConfig

    from hfkit.models import Source

    source = Source.of(path, revision)
    return AutoConfig.from_pretrained(source.base, revision=source.base_revision)
