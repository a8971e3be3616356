"""A stage to plan: its config, resolved for a device, and the models that it starts from."""

from dataclasses import dataclass, replace
from functools import cached_property

from peft import TaskType

from hfkit.config.registry import STAGES, StageSpec
from hfkit.core.errors import ConfigError, Problem, reason
from hfkit.models.model_config import new_config, read_config
from hfkit.models.precision import checkpoint_dtype, frozen_dtype
from hfkit.models.tokenizers import cached_tokenizer, read_tokenizer
from hfkit.records.source import Source
from hfkit.training.arguments import device_defaults, trainer_arguments
from hfkit.training.memory.device import Device, find_device
from hfkit.training.memory.rows import replies_per_row, row_length
from hfkit.training.memory.shapes import Origin


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage to plan.

    Attributes:
        spec: of the stage.
        config: its config; only `gradient_checkpointing` may be None.
        start: the model that it starts from, or makes.
        reward: PPO's reward model, or None.
        shares_vocabulary: whether the reward model has the vocabulary of `start`.
        replies: the most sequences of a row.
    """

    spec: StageSpec
    config: object
    start: Origin
    reward: Origin | None = None
    shares_vocabulary: bool = True
    replies: int = 1

    @property
    def task(self) -> TaskType:
        """The task of the resulting model, which sets its head."""
        return TaskType.SEQ_CLS if self.spec.makes == "reward model" else TaskType.CAUSAL_LM

    @property
    def row_length(self) -> int:
        """Most tokens of a sequence."""
        return row_length(self.spec, self.config)

    @cached_property
    def arguments(self):
        """The trainer's arguments, resolved for the device."""
        return trainer_arguments(self.config)


def plan_stage(name: str, config, made: dict, device: Device | None = None, replies: int | None = None) -> PlannedStage:
    """Return a stage with the models that it starts from, and its config resolved for a device.

    Args:
        made: outputs of earlier stages by folder: the size of a vocabulary, or an `Origin`.
        device: default is that of this process.
        replies: the most sequences of a row; by default from the source, see `replies_per_row`.

    Raises:
        ConfigError: the config of a model cannot be read.
    """
    spec, reward = STAGES[name], None
    if getattr(config, "model_config", None):
        start = new_model(config, made)
    else:
        start = find_origin("model_name_or_path", config.model_name_or_path, config.model_revision, made)
    if getattr(config, "reward_model_path", None) is not None:
        reward = find_origin("reward_model_path", config.reward_model_path, config.reward_model_revision, made)
    same = reward is None or have_same_vocabulary(start, reward, made)
    config = config_on(device or find_device(), config, start)
    return PlannedStage(spec, config, start, reward, same, replies or replies_per_row(spec, config))


def config_on(device: Device, config, start: Origin):
    """Return a stage's config with the defaults of a device for open keys, except `gradient_checkpointing`."""
    defaults = device_defaults(config, device.kind, device.defaults_to_bf16)
    bf16, optim = config.bf16 if config.bf16 is not None else defaults["bf16"], config.optim or defaults["optim"]
    is_new = bool(getattr(config, "model_config", None))
    chosen = frozen_dtype(device.kind, bf16, config.use_peft and not is_new, checkpoint_dtype(start.config))
    return replace(config, bf16=bf16, optim=optim, dtype=config.dtype or chosen)


def have_same_vocabulary(one: Origin, other: Origin, made: dict) -> bool:
    """Return whether two models have the same vocabulary; a tokenizer that is not yet trained equals only itself."""
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
        return Origin(source, read_config(source.base, source.base_revision), (path, revision))
    except Exception as error:  # a library may raise any error on the content of a folder
        raise ConfigError([Problem(key, path, f"its config cannot be read: {reason(error)}")]) from error


def new_model(config, made: dict) -> Origin:
    """Return the model that `model_config` describes, with the vocabulary of its tokenizer, trained yet or not."""
    settings = dict(config.model_config)
    path = config.tokenizer_name_or_path
    if "vocab_size" not in settings:
        settings["vocab_size"] = made[path] if path in made else len(cached_tokenizer(path, "main", config.pad_token))
    source = Source(config.output_dir, "main", config.output_dir, "main", None)
    return Origin(source, new_config(settings), (path, "main"))
