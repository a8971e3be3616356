"""The stages that `hfkit plan` plans, read from a YAML: each with the models that it starts from."""

from dataclasses import dataclass
from functools import cached_property

from peft import TaskType
from transformers import AutoConfig

from hfkit.commands.plan.shapes import Origin
from hfkit.config.registry import STAGES, StageSpec
from hfkit.core.errors import ConfigError, Problem, reason
from hfkit.models.adapter_shape import lora_config
from hfkit.models.tokenizers import cached_tokenizer, read_tokenizer
from hfkit.records.source import Source
from hfkit.stages.read_configs import read_configs
from hfkit.training.arguments import trainer_arguments


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage to plan.

    Attributes:
        spec: of the stage.
        config: its config.
        start: the model that it starts from, or makes.
        reward: PPO's reward model, or None.
        shares_vocabulary: whether the reward model has the vocabulary of `start`.
    """

    spec: StageSpec
    config: object
    start: Origin
    reward: Origin | None = None
    shares_vocabulary: bool = True

    @property
    def task(self) -> TaskType:
        """The head of the model that comes out."""
        return TaskType.SEQ_CLS if self.spec.makes == "reward model" else TaskType.CAUSAL_LM

    @property
    def row_length(self) -> int:
        """Most tokens of a row."""
        if self.spec.length_key is not None:
            return getattr(self.config, self.spec.length_key)
        return self.config.max_prompt_length + self.config.response_length

    @cached_property
    def arguments(self):
        """The trainer's arguments, with what depends on the device resolved."""
        return trainer_arguments(self.config)


def read_stages(path: str, stage: str | None, output_dir: str | None, flags: list[str]) -> list[PlannedStage]:
    """Return the stages of a YAML, with models known from their configs; the arguments are those of `read_configs`.

    Raises:
        ConfigError: as `read_configs` does, or because the config of a model cannot be read.
    """
    stages, made = [], {}
    among = [name for name, spec in STAGES.items() if spec.trains_a_model]
    for name, config in read_configs(path, stage, output_dir, flags, among).items():
        if STAGES[name].makes == "tokenizer":
            made[config.output_dir] = config.vocab_size
        elif STAGES[name].trains_a_model:
            stages.append(plan_stage(name, config, made))
            made[config.output_dir] = model_made_by(stages[-1])
    return stages


def plan_stage(name: str, config, made: dict) -> PlannedStage:
    """Return a stage with the models that it starts from.

    Args:
        made: what earlier stages will make, by folder: the size of a vocabulary, or an `Origin`.
    """
    spec = STAGES[name]
    if getattr(config, "model_config", None):
        return PlannedStage(spec, config, new_model(config, made))
    start = find_origin("model_name_or_path", config.model_name_or_path, config.model_revision, made)
    if getattr(config, "reward_model_path", None) is None:
        return PlannedStage(spec, config, start)
    reward = find_origin("reward_model_path", config.reward_model_path, config.reward_model_revision, made)
    return PlannedStage(spec, config, start, reward, have_same_vocabulary(start, reward, made))


def have_same_vocabulary(one: Origin, other: Origin, made: dict) -> bool:
    """Return whether two models have the same vocabulary; a tokenizer still to be trained equals only itself."""
    if one.tokenizer == other.tokenizer:
        return True
    if one.tokenizer[0] in made or other.tokenizer[0] in made:
        return False
    return read_tokenizer(*one.tokenizer).get_vocab() == read_tokenizer(*other.tokenizer).get_vocab()


def find_origin(key: str, path: str, revision: str, made: dict) -> Origin:
    """Return the model of a path: one that an earlier stage makes, or one that exists.

    Raises:
        ConfigError: its config cannot be read.
    """
    if path in made:
        return made[path]
    try:
        source = Source.of(path, revision)
        config = AutoConfig.from_pretrained(source.base, revision=source.base_revision, trust_remote_code=False)
        return Origin(source, config, (path, revision))
    except Exception as error:  # a library may raise anything over the content of a folder
        raise ConfigError([Problem(key, path, f"its config cannot be read: {reason(error)}")]) from error


def new_model(config, made: dict) -> Origin:
    """Return the model that `model_config` describes; its vocabulary is that of the tokenizer, trained yet or not."""
    settings = dict(config.model_config)
    path = config.tokenizer_name_or_path
    if "vocab_size" not in settings:
        settings["vocab_size"] = made[path] if path in made else len(cached_tokenizer(path, "main", config.pad_token))
    source = Source(config.output_dir, "main", config.output_dir, "main", None)
    return Origin(source, AutoConfig.for_model(settings.pop("model_type"), **settings), (path, "main"))


def model_made_by(stage: PlannedStage) -> Origin:
    """Return the model that a stage leaves in its folder: an adapter on the base it started from, or a full model."""
    folder, start = stage.config.output_dir, stage.start
    if not stage.config.use_peft:
        return Origin(Source(folder, "main", folder, "main", None), start.config, start.tokenizer)
    adapter = lora_config(stage.config, start.source, stage.task).to_dict()
    source = Source(folder, "main", start.source.base, start.source.base_revision, adapter)
    return Origin(source, start.config, start.tokenizer)
