"""The model that a stage starts from: there, of the right kind, with a tokenizer that fits, and long enough."""

import os
from pathlib import Path

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from hfkit.config.stages import PPOConfig, PretrainConfig, RewardConfig
from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.core.hub_ids import HUB_ID, split_revision
from hfkit.core.hub_retry import HubError
from hfkit.models.loading import cached_config, cached_tokenizer, is_classifier
from hfkit.records.base import base_fault
from hfkit.records.record import read_record
from hfkit.records.source import ADAPTER_CONFIG, Source

MODEL_CONFIGS = ("config.json", ADAPTER_CONFIG)


def adapter_problems(config) -> list[Problem]:
    """LoRA and quantization that contradict each other."""
    problems = []
    bits = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(config, name)), None)
    if bits and not config.use_peft:
        problems.append(Problem(bits, True, "quantized weights cannot be trained: set use_peft: true"))
    if config.load_in_4bit and config.load_in_8bit:
        problems.append(Problem("load_in_8bit", True, "the base is held in 4 bits or in 8: set one of the two"))
    if not config.use_peft:
        for name in ("lora_r", "lora_alpha", "lora_target_modules"):
            if getattr(config, name) is not None:
                problems.append(Problem(name, getattr(config, name), "has no effect without use_peft: true"))
        if config.use_rslora:
            problems.append(Problem("use_rslora", True, "has no effect without use_peft: true"))
    if config.lora_target_modules == []:
        problems.append(Problem("lora_target_modules", [], "name at least one, or leave it out for all linear layers"))
    if isinstance(config, PPOConfig) and config.lora_dropout:
        problems.append(Problem("lora_dropout", config.lora_dropout, "PPO runs without dropout: set 0"))
    if bits and config.dtype == "auto":
        problems.append(Problem("dtype", "auto", f"with {bits} name it: bfloat16 on a GPU, else float32"))
    return problems


def model_problems(config) -> list[Problem]:
    """A model that does not exist or is of another kind, a context too short, a tokenizer that does not fit it."""
    if isinstance(config, PretrainConfig):
        return pretrain_problems(config)
    if config.model_name_or_path is None:
        return [Problem("model_name_or_path", None, "missing: the model to start from")]
    key, path = "model_name_or_path", config.model_name_or_path
    problems = path_problems(key, path) + tokenizer_problems(config, key, path, config.model_revision)
    told = {problem.key for problem in problems}
    return problems + [problem for problem in start_problems(config) if problem.key not in told]


def start_problems(config) -> list[Problem]:
    """A model that is there but cannot be started from with this config, or that the Hub does not give."""
    key, path = "model_name_or_path", config.model_name_or_path
    if path is None or path_problems(key, path):
        return length_problems(config)
    problems, is_folder = length_problems(config) + vocabulary_problems(config), os.path.isdir(path)
    if is_folder and config.model_revision != "main":
        problems.append(Problem("model_revision", config.model_revision, "has no effect on a folder"))
    try:
        problems += shape_problems(config)
        fault = None if is_folder else base_fault(Source.of(path, config.model_revision))  # a folder's is told by now
        problems += [Problem(key, path, fault)] if fault else []
        if is_classifier(path, config.model_revision) and not isinstance(config, RewardConfig):
            problems.append(Problem(key, path, "a classifier, as reward models are: start from a language model"))
    except HfkitError as error:
        problems.append(Problem(key, path, str(error)))
    return problems


def vocabulary_problems(config) -> list[Problem]:
    """A tokenizer with ids for which the model has no embedding."""
    path, revision = getattr(config, "tokenizer_source", (config.model_name_or_path, config.model_revision))
    try:
        tokenizer = cached_tokenizer(path, revision, config.pad_token)
        if getattr(config, "model_config", None):
            size = config.model_config.get("vocab_size")
        else:
            size = cached_config(config.model_name_or_path, config.model_revision).get_text_config().vocab_size
    except Exception:  # told by tokenizer_problems, or when the model is loaded
        return []
    highest = max(tokenizer.get_vocab().values())
    if size is None or highest < size:
        return []
    key = "model_config.vocab_size" if getattr(config, "model_config", None) else "model_name_or_path"
    remedy = f"its tokenizer, {path}, has ids up to {highest}: the model's embedding ends at {size - 1}"
    return [Problem(key, size if "." in key else config.model_name_or_path, remedy)]


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
    path, revision = config.tokenizer_source
    if path is None:
        return [*problems, Problem("tokenizer_name_or_path", None, "missing: a new model needs a tokenizer")]
    problems += path_problems(key, path) + tokenizer_problems(config, key, path, revision)
    return problems + (
        vocabulary_problems(config) + length_problems(config) if config.model_config else start_problems(config)
    )


def architecture_problems(config: PretrainConfig) -> list[Problem]:
    """`model_config` must name a causal language model, in fields that its architecture has."""
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
    """A local path must exist, and what is in it be done and have its base; anything else must look like a Hub id."""
    path, _ = split_revision(path)
    if not os.path.isdir(path):
        return [] if HUB_ID.match(path) else [Problem(key, path, "no such folder, and not a Hub id")]
    status = (read_record(path) or {}).get("status", "done")
    if status != "done":
        return [Problem(key, path, f"a run that is not done ({status}): finish it first")]
    try:
        source = Source.of(path)
        if not os.path.isdir(source.base) and not HUB_ID.match(source.base):
            remedy = f"its base {source.base!r} is not there: mend base_model_name_or_path in adapter_config.json"
            return [Problem(key, path, remedy)]
        fault = base_fault(source)
    except HfkitError as error:
        return [Problem(key, path, str(error))]
    return [Problem(key, path, fault)] if fault else []


def weights_problems(key: str, path: str) -> list[Problem]:
    """As `path_problems`; and a folder must hold a model, in full or as an adapter."""
    wrong = path_problems(key, path)
    folder = Path(path)
    if wrong or not os.path.isdir(path) or any((folder / name).is_file() for name in MODEL_CONFIGS):
        return wrong
    stage = (read_record(path) or {}).get("stage")
    content = f"the run of another stage ({stage})" if stage else "no model" if any(folder.iterdir()) else "nothing"
    return [Problem(key, path, f"holds {content}: name a folder with {' or '.join(MODEL_CONFIGS)}, or a Hub id")]


def tokenizer_problems(config, key: str, path: str, revision: str) -> list[Problem]:
    """A tokenizer that cannot be read, or that has nothing to pad with but its EOS."""
    if path_problems(key, path):
        return []

    try:
        cached_tokenizer(path, revision, config.pad_token)
    except HubError as error:
        return [Problem(key, path, f"its tokenizer cannot be read: {error}")]
    except HfkitError as error:
        return [Problem("pad_token", config.pad_token, str(error))]
    except Exception as error:  # whatever a library says of a folder's content
        return [Problem(key, path, f"its tokenizer cannot be read: {reason(error)}")]
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
        text_config = cached_config(config.model_name_or_path, config.model_revision).get_text_config()
    except (HfkitError, OSError, ValueError):
        return None
    return getattr(text_config, "max_position_embeddings", None)


def shape_problems(config) -> list[Problem]:
    """LoRA settings that differ from those of the adapter that is gone on from."""
    if path_problems("", config.model_name_or_path):
        return []
    adapter = Source.of(config.model_name_or_path, config.model_revision).adapter
    if adapter is None or not config.use_peft:
        return []
    given = {"r": config.lora_r, "lora_alpha": config.lora_alpha, "target_modules": config.lora_target_modules}
    given |= {"use_rslora": config.use_rslora or None}
    names = {"r": "lora_r", "target_modules": "lora_target_modules"}
    return [
        Problem(names.get(key, key), value, f"the adapter it starts from has {adapter.get(key)}: leave it out")
        for key, value in given.items()
        if value is not None and as_set(value) != as_set(adapter.get(key))
    ]


def as_set(value: object) -> object:
    """A list without its order; anything else as it is."""
    return set(value) if isinstance(value, list) else value
