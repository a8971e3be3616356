"""Validates the model that a stage starts from: it exists, is of the right kind, and its tokenizer and context fit."""

import os
from pathlib import Path

from peft import PeftType
from transformers import PreTrainedConfig

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.core.hub_fetch import missing_folder_error
from hfkit.core.hub_ids import HUB_ID, split_revision
from hfkit.data.system_prompt import SystemPromptError
from hfkit.data.template_limits import UnusableTemplateError
from hfkit.models.fitting import vocabulary_fault
from hfkit.models.loading import cached_config, is_classifier
from hfkit.models.model_config import context_tokens
from hfkit.models.tokenizers import PadTokenError, TemplateError, cached_tokenizer, load_tokenizer, tokenizer_source
from hfkit.records.base import base_fault
from hfkit.records.record import read_record
from hfkit.records.source import ADAPTER_CONFIG, Source
from hfkit.stages.checks.adapters import adapter_shape_problems, module_problems
from hfkit.stages.checks.architecture import MODEL_KEYS, architecture_problems, length_problems_within
from hfkit.stages.checks.files import template_name, template_problems
from hfkit.stages.checks.paths import variable_remedy
from hfkit.stages.checks.start import checkpoint_problems

MODEL_CONFIGS = ("config.json", ADAPTER_CONFIG)


def model_problems(config) -> list[Problem]:
    """Return problems of the model that a stage starts from, or creates (`model_config`), and of its tokenizer."""
    path, revision = tokenizer_source(config)
    if path is None:
        # a missing key of a stage with model_config is reported by that stage's checks
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
    try:
        problems += adapter_shape_problems(config)
        if Source.of(path, revision).adapter is None:
            problems += module_problems(config, cached_config(path, revision))
        faults = [] if is_folder else [base_fault(Source.of(path, revision))]  # path_problems checks folders
        if is_classifier(path, revision) and spec_of_config(config).makes != "reward model":
            faults.append("a classifier, such as a reward model: start from a language model")
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
        fault = f"the tokenizer {path} has {len(tokenizer)} tokens: set it to that, or remove it"
        return [Problem("model_config.vocab_size", size, fault, keys=MODEL_KEYS)]
    return [Problem("model_name_or_path", config.model_name_or_path, fault, keys=MODEL_KEYS)]


def path_problems(key: str, path: str) -> list[Problem]:
    """Return problems of a path other than a Hub id: no such folder, an unfinished run, an adapter without base."""
    if problem := variable_remedy(path) or missing_folder_error(path):
        return [Problem(key, path, problem)]
    path, _ = split_revision(path)
    if not os.path.isdir(path):
        return []
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
    """Return the problem of a revision, at `key`, for a model in a local folder."""
    has_none = revision != "main" and os.path.isdir(path)
    return [Problem(key, revision, "has no effect on a folder", keys=(path_key,))] if has_none else []


def weights_problems(key: str, path: str) -> list[Problem]:
    """Return `path_problems`, and the problem of a folder without a model, or whose config cannot be read."""
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
        return None  # fetched when the model is loaded
    try:
        cached_config(path, "main")
    except Exception as error:  # Transformers raises errors of any kind for a broken config
        return f"{os.path.join(source.base, 'config.json')} cannot be read: {reason(error)}"
    return None


def model_tokenizer_problems(config, key: str, path: str, revision: str) -> list[Problem]:
    """Return problems of a tokenizer that cannot be read, lacks a pad token, or has a template that is not Jinja."""
    chosen = template_name(config) if template_problems(config) else config.chat_template
    try:
        cached_tokenizer(path, revision, config.pad_token, chosen)
    except UnusableTemplateError as error:
        if chosen is not None:
            return [Problem("chat_template", chosen, str(error))]
        return [Problem(key, path, f"{error}: set chat_template", keys=MODEL_KEYS)]
    except TemplateError as error:
        return [Problem("chat_template", config.chat_template, error.fault, keys=MODEL_KEYS)]
    except PadTokenError as error:
        return [Problem("pad_token", config.pad_token, str(error), keys=MODEL_KEYS)]
    except HfkitError as error:
        return [Problem(key, path, str(error))]
    changes = config.system_prompt is not None or config.chat_template is not None
    return system_prompt_problems(config, path, revision) if changes else []


def system_prompt_problems(config, path: str, revision: str) -> list[Problem]:
    """Return the problem of a system prompt that the chat template does not write."""
    try:
        load_tokenizer(path, revision, config.pad_token, config.chat_template, system_prompt=config.system_prompt)
    except SystemPromptError as error:
        return [Problem("system_prompt", config.system_prompt, str(error), keys=("chat_template", *MODEL_KEYS))]
    except (HfkitError, OSError, ValueError):  # the checks of the template report it
        pass
    return []


def length_problems(config) -> list[Problem]:
    """Return problems of rows, or of prompts with their responses, that are longer than the model's context."""
    return length_problems_within(config, context_length(config))


def context_length(config) -> int | None:
    """Return the context length of the model that a config starts from or makes; None if unlimited or unknown."""
    if getattr(config, "model_config", None):
        return config.model_config.get("max_position_embeddings") or config.model_config.get("n_positions")
    if config.model_name_or_path is None or path_problems("", config.model_name_or_path):
        return None
    try:
        return context_tokens(cached_config(config.model_name_or_path, config.model_revision))
    except HfkitError:
        return None


def pending_problems(config, model_config: PreTrainedConfig | None) -> list[Problem]:
    """Return the problems of a pipeline's stage whose model, with this config, is made by an earlier stage."""
    if model_config is None:
        return []
    limit = context_tokens(model_config)
    problems = architecture_problems(config, model_config) + module_problems(config, model_config)
    return problems + length_problems_within(config, limit)
