"""The stages that a YAML is for, to be planned: each with the models that it starts from."""

from dataclasses import dataclass
from functools import cached_property

from peft import TaskType
from transformers import AutoConfig

from hfkit.commands.plan.shapes import Origin
from hfkit.config.stages import PretrainConfig
from hfkit.core.errors import ConfigError, Problem, reason
from hfkit.models.adapters import lora_config
from hfkit.models.loading import cached_tokenizer
from hfkit.records.source import Source
from hfkit.stages.resolve import read_configs
from hfkit.training.arguments import trainer_arguments


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage to plan.

    Attributes:
        name: of the stage.
        config: its config.
        start: the model that it starts from, or makes.
        reward: PPO's reward model.
    """

    name: str
    config: object
    start: Origin
    reward: Origin | None = None

    @cached_property
    def arguments(self):
        """The trainer's arguments, with what depends on the device resolved."""
        return trainer_arguments(self.config)


def read_stages(path: str, stage: str | None, output_dir: str | None, flags: list[str]) -> list[PlannedStage]:
    """The stages of a YAML, as `read_configs` reads them; the models that they hand on are known from their configs.

    Raises:
        ConfigError: as `read_configs`; or a model's config cannot be read.
    """
    stages, made = [], {}
    among = [spec.name for spec in STAGES.values() if spec.trains_a_model]
    for name, config in read_configs(path, stage, output_dir, flags, among).items():
        if name == "tokenizer":
            made[config.output_dir] = config.vocab_size
            continue
        stages.append(planned_stage(name, config, made))
        made[config.output_dir] = result_of(stages[-1], config.output_dir)
    return stages


def planned_stage(name: str, config, made: dict) -> PlannedStage:
    """A stage with the models that it starts from.

    Args:
        made: what earlier stages will make, by its folder: the size of a vocabulary, or an `Origin`.
    """
    if isinstance(config, PretrainConfig) and config.model_config:
        return PlannedStage(name, config, new_model_origin(config, made))
    start = find_origin("model_name_or_path", config.model_name_or_path, config.model_revision, made)
    if name != "ppo":
        return PlannedStage(name, config, start)
    reward = find_origin("reward_model_path", config.reward_model_path, config.reward_model_revision, made)
    return PlannedStage(name, config, start, reward)


def find_origin(key: str, path: str, revision: str, made: dict) -> Origin:
    """The model of a path: one that an earlier stage makes, or one that is there.

    Raises:
        ConfigError: its config cannot be read.
    """
    if path in made:
        return made[path]
    try:
        source = Source.of(path, revision)
        return Origin(
            source, AutoConfig.from_pretrained(source.base, revision=source.base_revision, trust_remote_code=False)
        )
    except Exception as error:  # whatever a library says of a folder's content
        raise ConfigError([Problem(key, path, f"its config cannot be read: {reason(error)}")]) from error


def new_model_origin(config: PretrainConfig, made: dict) -> Origin:
    """The model that pretraining makes; its vocabulary is the tokenizer's, also of one that is yet to be trained."""
    settings = dict(config.model_config)
    path = config.tokenizer_name_or_path
    if "vocab_size" not in settings:
        settings["vocab_size"] = made[path] if path in made else len(cached_tokenizer(path, "main", config.pad_token))
    source = Source(config.output_dir, "main", config.output_dir, "main", None)
    return Origin(source, AutoConfig.for_model(settings.pop("model_type"), **settings))


def result_of(stage: PlannedStage, folder: str) -> Origin:
    """The model that a stage leaves in its folder: an adapter on the base that it started from, or a full model."""
    if not stage.config.use_peft:
        return Origin(Source(folder, "main", folder, "main", None), stage.start.config)
    task = TaskType.SEQ_CLS if stage.name == "reward" else TaskType.CAUSAL_LM
    source = stage.start.source
    adapter = lora_config(stage.config, source, task).to_dict()
    return Origin(Source(folder, "main", source.base, source.base_revision, adapter), stage.start.config)
