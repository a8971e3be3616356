"""Validates the keys that only pretraining has: a new model, or one to continue."""

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from hfkit.config.stages import PretrainConfig
from hfkit.core.errors import Problem
from hfkit.records.bounds import model_config_fault
from hfkit.stages.checks.rules import broken_rules

EXAMPLE = "{model_type: llama, hidden_size: 256, intermediate_size: 704, num_hidden_layers: 4, num_attention_heads: 4}"


def pretrain_problems(config: PretrainConfig) -> list[Problem]:
    """Return problems of the choice between a new model, which needs a tokenizer, and an existing one."""
    path, model_config = config.model_name_or_path, config.model_config
    unclear, no_tokenizer = bool(model_config) == bool(path), not (path or config.tokenizer_name_or_path)
    either = f"set either model_config (a new model, such as {EXAMPLE}) or model_name_or_path (continue one)"
    full = "a new model has no frozen base: train it in full"
    rules = [
        (unclear, "model_config", either, "model_name_or_path"),
        (model_config and config.use_peft, "use_peft", full, "model_config"),
        (no_tokenizer, "tokenizer_name_or_path", "missing: a new model needs a tokenizer", "model_name_or_path"),
    ]
    return broken_rules(config, rules) + (new_model_problems(model_config) if model_config else [])


def new_model_problems(model_config: dict) -> list[Problem]:
    """Return problems of a new model's config, which must name a causal LM and set fields of its architecture."""
    settings = dict(model_config)
    name = settings.pop("model_type", None)
    if name not in CAUSAL:
        return [Problem("model_config.model_type", name, "name an AutoModelForCausalLM architecture: llama, gpt2, ...")]
    if fault := model_config_fault(model_config):
        return [Problem("model_config", model_config, fault)]
    known = AutoConfig.for_model(name)
    return [
        Problem(f"model_config.{key}", value, f"{type(known).__name__} has no such field")
        for key, value in settings.items()
        if not hasattr(known, key)
    ]
