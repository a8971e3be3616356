"""Validates the model that a stage starts from: it exists, is of the right kind, and its tokenizer and context fit."""

import os
from pathlib import Path

from peft import PeftType

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import HfkitError, Problem, nearest, reason
from hfkit.core.hub_ids import HUB_ID, split_revision
from hfkit.models.adapter_support import module_names, opening_fault, training_fault
from hfkit.models.fitting import vocabulary_fault
from hfkit.models.loading import cached_config, is_classifier
from hfkit.models.tokenizers import PadTokenError, TemplateError, cached_tokenizer, tokenizer_source
from hfkit.records.base import base_fault
from hfkit.records.record import read_record
from hfkit.records.source import ADAPTER_CONFIG, Source
from hfkit.stages.checks.architecture import MODEL_KEYS, length_problems_within
from hfkit.stages.checks.files import template_fault, template_name
from hfkit.stages.checks.rules import broken_rules
from hfkit.stages.checks.start import checkpoint_problems

MODEL_CONFIGS = ("config.json", ADAPTER_CONFIG)
ADAPTER_KEYS = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_target_modules": "target_modules"}
ADAPTER_KEYS |= {"use_rslora": "use_rslora"}
"""The keys of an adapter's shape, and their names in PEFT's config."""


def adapter_problems(config) -> list[Problem]:
    """Return problems of LoRA and quantization settings that contradict each other."""
    bits = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(config, name)), None)
    both = config.load_in_4bit and config.load_in_8bit
    given = [key for key in ADAPTER_KEYS if getattr(config, key) not in (None, False) and not config.use_peft]
    rules = [
        (bits and not config.use_peft, bits, "quantized weights cannot be trained: set use_peft: true", "use_peft"),
        (both, "load_in_8bit", "the base is loaded in 4 bits or in 8: set one of the two", "load_in_4bit"),
        *((True, key, "has no effect without use_peft: true", "use_peft") for key in given),
        (config.lora_dropout == 1, "lora_dropout", "drops all of the adapter's input, which then learns nothing"),
        (config.lora_target_modules == [], "lora_target_modules", "name one or more; without it, all linear layers"),
        (bits and config.dtype == "auto", "dtype", f"{bits} needs a dtype: bfloat16 on a GPU, else float32", bits),
    ]
    return broken_rules(config, rules)


def model_problems(config) -> list[Problem]:
    """Return problems of the model that a stage starts from, or makes anew (`model_config`), and of its tokenizer."""
    path, revision = tokenizer_source(config)
    if path is None:
        # what a stage with model_config lacks is for that stage's own checks
        missing = Problem("model_name_or_path", None, "missing: the model to start from")
        return [] if hasattr(config, "model_config") else [missing]
    key = "tokenizer_name_or_path" if getattr(config, "tokenizer_name_or_path", None) else "model_name_or_path"
    folder_problems = weights_problems if key == "model_name_or_path" else path_problems
    problems = folder_problems(key, path) or model_tokenizer_problems(config, key, path, revision)
    if getattr(config, "model_config", None):
        return problems + vocabulary_problems(config) + length_problems(config)
    reported = {problem.key for problem in problems}
    return problems + [problem for problem in start_problems(config) if problem.key not in reported]


def start_problems(config) -> list[Problem]:
    """Return problems of the model to start from: it is missing, cannot be fetched, or does not fit the config."""
    key, path, revision = "model_name_or_path", config.model_name_or_path, config.model_revision
    if path is None:
        return []
    if problems := weights_problems(key, path):
        return problems
    problems = length_problems(config) + vocabulary_problems(config)
    is_folder = os.path.isdir(path)
    problems += revision_problems("model_revision", revision, key, path)
    spec = spec_of_config(config)
    try:
        problems += adapter_shape_problems(config) + target_problems(config)
        faults = [] if is_folder else [base_fault(Source.of(path, revision))]  # path_problems looks into folders
        if is_classifier(path, revision) and (spec is None or spec.makes != "reward model"):
            faults.append("a classifier, as reward models are: start from a language model")
        if not problems and not any(faults):
            problems += checkpoint_problems(config)
    except HfkitError as error:
        faults = [str(error)]
    return problems + [Problem(key, path, fault, keys=MODEL_KEYS) for fault in faults if fault]


def vocabulary_problems(config) -> list[Problem]:
    """Return problems of a tokenizer that has ids beyond the model's embedding."""
    path, revision = tokenizer_source(config)
    try:
        tokenizer = cached_tokenizer(path, revision, config.pad_token, template_name(config))
        if getattr(config, "model_config", None):
            size = config.model_config.get("vocab_size")
        else:
            size = cached_config(config.model_name_or_path, config.model_revision).get_text_config().vocab_size
    except Exception:  # tokenizer_problems reports it, or loading the model does
        return []
    fault = vocabulary_fault(path, tokenizer, size) if size is not None else None
    if fault is None:
        return []
    if getattr(config, "model_config", None):
        return [Problem("model_config.vocab_size", size, fault, keys=MODEL_KEYS)]
    return [Problem("model_name_or_path", config.model_name_or_path, fault, keys=MODEL_KEYS)]


def path_problems(key: str, path: str) -> list[Problem]:
    """Return problems of a path that is no Hub id: no such folder, an unfinished run, an adapter without its base."""
    path, _ = split_revision(path)
    if not os.path.isdir(path):
        return [] if HUB_ID.match(path) else [Problem(key, path, "no such folder, and not a Hub id")]
    status = (read_record(path) or {}).get("status", "done")
    if status != "done":
        return [Problem(key, path, f"a run that is not done ({status}): finish it first")]
    try:
        source = Source.of(path)
        if not os.path.isdir(source.base) and not HUB_ID.match(source.base):
            remedy = f"its base {source.base!r} does not exist: correct base_model_name_or_path in adapter_config.json"
            return [Problem(key, path, remedy)]
        fault = base_fault(source)
    except HfkitError as error:
        return [Problem(key, path, str(error))]
    return [Problem(key, path, fault)] if fault else []


def revision_problems(key: str, revision: str, path_key: str, path: str) -> list[Problem]:
    """Return the problem of a revision, at `key`, of a model that is a folder and has none."""
    has_none = revision != "main" and os.path.isdir(path)
    return [Problem(key, revision, "has no effect on a folder", keys=(path_key,))] if has_none else []


def weights_problems(key: str, path: str) -> list[Problem]:
    """Return `path_problems`, and the problem of a folder that holds no model, or one whose config cannot be read."""
    problems = path_problems(key, path)
    folder = Path(path)
    if problems or not os.path.isdir(path):
        return problems
    if any((folder / name).is_file() for name in MODEL_CONFIGS):
        fault = config_fault(path)
        return [Problem(key, path, fault)] if fault else []
    stage = (read_record(path) or {}).get("stage")
    content = f"the run of another stage ({stage})" if stage else "no model" if any(folder.iterdir()) else "nothing"
    return [Problem(key, path, f"holds {content}: name a folder with {' or '.join(MODEL_CONFIGS)}, or a Hub id")]


def config_fault(path: str) -> str | None:
    """Return why PEFT or Transformers cannot read the config of the model in a folder, or None if they can."""
    source = Source.of(path)
    kind = source.adapter and source.adapter.get("peft_type")
    if source.adapter is not None and kind not in {one.value for one in PeftType}:
        return f"peft_type in {ADAPTER_CONFIG} is {kind!r}, which PEFT does not know"
    if not os.path.isdir(source.base):
        return None  # its config is fetched when it is loaded
    try:
        cached_config(path, "main")
    except Exception as error:  # Transformers raises errors of any kind for a broken config
        return f"{os.path.join(source.base, 'config.json')} cannot be read: {reason(error)}"
    return None


def model_tokenizer_problems(config, key: str, path: str, revision: str) -> list[Problem]:
    """Return problems of a tokenizer that cannot be read, lacks a pad token, or has a template that is not Jinja."""
    try:
        tokenizer = cached_tokenizer(path, revision, config.pad_token, template_name(config))
    except (PadTokenError, TemplateError) as error:
        wrong = "pad_token" if isinstance(error, PadTokenError) else "chat_template"
        return [Problem(wrong, getattr(config, wrong), str(error), keys=MODEL_KEYS)]
    except HfkitError as error:
        return [Problem(key, path, str(error))]
    own = tokenizer.chat_template
    templates = [] if config.chat_template else [*own.values()] if isinstance(own, dict) else [own]
    faults = [fault for text in templates if text and (fault := template_fault(text))]
    return [Problem(key, path, f"its chat template is {fault}: set chat_template", keys=MODEL_KEYS) for fault in faults]


def length_problems(config) -> list[Problem]:
    """Return problems of rows, or of prompts with their responses, that are longer than the model's context."""
    return length_problems_within(config, context_length(config))


def context_length(config) -> int | None:
    """Return the positions of the model that a config starts from or makes; None if unlimited or unknown."""
    if getattr(config, "model_config", None):
        return config.model_config.get("max_position_embeddings") or config.model_config.get("n_positions")
    if config.model_name_or_path is None or path_problems("", config.model_name_or_path):
        return None
    try:
        text_config = cached_config(config.model_name_or_path, config.model_revision).get_text_config()
    except HfkitError:
        return None
    return getattr(text_config, "max_position_embeddings", None)


def adapter_shape_problems(config) -> list[Problem]:
    """Return problems of LoRA settings that differ from those of the adapter that the stage starts from."""
    adapter = Source.of(config.model_name_or_path, config.model_revision).adapter
    if adapter is None:
        return []
    if not config.use_peft:
        fault = opening_fault(adapter, to_merge=True)
        return [Problem("model_name_or_path", config.model_name_or_path, fault, keys=MODEL_KEYS)] if fault else []
    fault = training_fault(adapter)
    problems = [Problem("model_name_or_path", config.model_name_or_path, fault, keys=MODEL_KEYS)] if fault else []
    for key, name_in_peft in ADAPTER_KEYS.items():
        value, inherited = getattr(config, key), adapter.get(name_in_peft)
        if value not in (None, False) and as_set(value) != as_set(inherited):
            remedy = f"the adapter it starts from has {inherited}: leave it out"
            problems.append(Problem(key, value, remedy, keys=("use_peft", *MODEL_KEYS)))
    return problems


def target_problems(config) -> list[Problem]:
    """Return problems of `lora_target_modules` that no module of the model matches; no weights are loaded."""
    source = Source.of(config.model_name_or_path, config.model_revision)
    if not config.use_peft or not config.lora_target_modules or source.adapter is not None:
        return []
    names = module_names(cached_config(config.model_name_or_path, config.model_revision))
    problems, keys = [], ("use_peft", *MODEL_KEYS)
    for entry in config.lora_target_modules if names is not None else ():
        if not any(name == entry or name.endswith(f".{entry}") for name in names):
            known = sorted({name.rpartition(".")[2] for name in names} - {*map(str, range(len(names)))})
            close = nearest(entry, known)
            remedy = f"did you mean {close}?" if close else f"name some of {', '.join(known)}"
            problems.append(
                Problem("lora_target_modules", entry, f"no module of the model has this name: {remedy}", keys=keys)
            )
    return problems


def as_set(value: object) -> object:
    """Return a list without its order, and anything else as it is."""
    return set(value) if isinstance(value, list) else value
