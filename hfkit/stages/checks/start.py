"""Validates the model that a stage starts from, built without weights: its files, its adapter, and the loss."""

import os
from importlib.metadata import version

from peft import PeftModel, TaskType
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper

from hfkit.config.registry import spec_of_config
from hfkit.config.stages import SFTConfig
from hfkit.core.compat_trl import ignores_adapted_head
from hfkit.core.errors import ConfigError, HfkitError, Problem, kind_of_error
from hfkit.core.launch import shards_with_fsdp
from hfkit.core.unwrap import without_adapter
from hfkit.models.adapter_shape import HEADS
from hfkit.models.classifiers import has_classifier
from hfkit.models.fitting import adapter_on_meta, model_on_meta, require_fitting
from hfkit.models.loading import cached_config
from hfkit.models.saving import require_generation_config
from hfkit.models.sft_loss import loss_arguments, router_arguments
from hfkit.models.stored_weights import require_stored
from hfkit.records.source import Source
from hfkit.stages.checks.architecture import MODEL_KEYS


def checkpoint_problems(config) -> list[Problem]:
    """Return problems of the files of the model that a stage starts from, and of the adapter on it."""
    is_classifier = spec_of_config(config).makes == "reward model"
    task_type = TaskType.SEQ_CLS if is_classifier else TaskType.CAUSAL_LM
    source = Source.of(config.model_name_or_path, config.model_revision)
    key, keys = "model_name_or_path", ("use_peft", *MODEL_KEYS)
    if config.use_peft and source.adapter is None and config.lora_target_modules:
        key = "lora_target_modules"
    model_config = cached_config(config.model_name_or_path, config.model_revision)
    if is_classifier and not has_classifier(model_config):  # `architecture_problems` reports it
        return []
    try:
        require_generation_config(source.base, source.base_revision)
        if config.use_peft:
            model = adapter_on_meta(config, source, task_type)
            if shards_with_fsdp() and trains_tied_weights(model):
                remedy = "embeddings and head share one matrix, and FSDP2 cannot shard it together with a trained copy"
                saved = model.peft_config["default"].modules_to_save
                return [Problem("modules_to_save", saved, f"{remedy}: train with DDP, or remove both", keys=keys)]
        else:
            model = model_on_meta(source.base, model_config, task_type)
            require_fitting(source, task_type)
        if os.path.isdir(source.base):  # files on the Hub are fetched when the model is loaded
            require_stored(source.base, source.base_revision, HEADS[task_type], config.allow_pickle)
        check_loss = loss_arguments if isinstance(config, SFTConfig) else router_arguments
        check_loss(model, config)
        if (
            not isinstance(config, SFTConfig)
            and has_lora_on_head(model)
            and ignores_adapted_head(config.trainer_config_class())
        ):
            why = f"TRL {version('trl')} does not train LoRA on the output head in this stage"
            remedy = f"{why}: use an adapter without it, or install trl 1.12"
            return [Problem(key, getattr(config, key), remedy, keys=keys)]
    except ConfigError as error:
        return error.problems
    except HfkitError as error:
        return [Problem(key, getattr(config, key), str(error), kind_of_error(error), keys)]
    return []


def has_lora_on_head(model) -> bool:
    """Return whether the output head of a model has an adapter; a copy that is trained in full is none."""
    base = without_adapter(model)
    return isinstance(base.get_output_embeddings(), BaseTunerLayer)


def trains_tied_weights(model: PeftModel) -> bool:
    """Return whether an adapter trains a copy of embeddings or head in a model that ties the two."""
    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    is_tied = base.config.get_text_config().tie_word_embeddings and ends[1] is not None
    return is_tied and any(isinstance(end, ModulesToSaveWrapper) for end in ends)
