"""Which stages a YAML is for, each with its config and the models that it starts from."""

from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from functools import cached_property
from pathlib import Path

from hfkit.config import STAGES, PretrainConfig
from hfkit.errors import MISSING, ConfigError, Problem, reason
from hfkit.parsing import parse
from hfkit.pipeline import INPUTS, read_pipeline, stage_flags
from hfkit.planning.shapes import Origin
from hfkit.source import Source
from hfkit.strict_yaml import read_yaml

PLANNED = ("pretrain", "sft", "reward", "ppo")


@dataclass(frozen=True, eq=False)
class Stage:
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
        from hfkit.training import trainer_arguments

        return trainer_arguments(self.config)


def read_stages(path: str, stage: str | None, output_dir: str | None, flags: list[str]) -> list[Stage]:
    """The stages of a YAML: those of a pipeline, or one.

    Args:
        path: a stage's YAML or a pipeline's.
        stage: which stage it is for, where that cannot be told from its name and keys.
        output_dir: in place of the YAML's.
        flags: `["--seed", "1"]`, in a pipeline also `["--sft.learning_rate", "1e-4"]`.

    Raises:
        ConfigError: it cannot be read, its stage cannot be told, or its config has problems.
    """
    problems: list[Problem] = []
    content = read_yaml(path, problems)
    if content is None:
        raise ConfigError(problems, source=path)
    if "stages" in content:
        if stage is not None:
            raise ConfigError([Problem("--stage", stage, "a pipeline has its own stages: leave it out")])
        return pipeline_stages(Path(path), output_dir, flags)
    name = stage or stage_of(path, content)
    if name not in PLANNED:
        raise ConfigError([Problem("stage", name, f"plans are of {', '.join(PLANNED)}")], source=path)
    argv = ["--config", path, *flags, *(["--output_dir", output_dir] if output_dir else [])]
    if output_dir is None and "output_dir" not in content:
        argv += ["--output_dir", "."]  # nothing is written
    config = read_config(name, argv, pending=[])
    return [with_origins(name, config, {})]


def stage_of(path: str, content: dict) -> str:
    """The stage that a YAML is for, by its name (`sft.yaml`, `sft-8b.yaml`), else by the keys that no other stage has.

    Raises:
        ConfigError: neither tells.
    """
    stem = Path(path).stem
    for name in STAGES:
        if stem == name or stem.startswith((f"{name}-", f"{name}_", f"{name}.")):
            return name
    keys = {name: {field.name for field in fields_of(config)} for name, config in STAGES.items()}
    elsewhere = {name: set().union(*(keys[other] for other in keys if other != name)) for name in keys}
    told = [name for name in keys if (keys[name] - elsewhere[name]) & content.keys()]
    if len(told) == 1:
        return told[0]
    remedy = f"say which stage it is for: --stage {'|'.join(told or PLANNED)}"
    raise ConfigError([Problem("stage", MISSING, remedy)], source=path)


def read_config(name: str, argv: list[str], pending: list[str]):
    """The config of a stage, its problems told but for those of what need not be there yet.

    Args:
        pending: the keys of what an earlier stage will make.
    """

    class Planned(STAGES[name]):
        def problems(self) -> list[Problem]:
            # a folder, also where its name could be a Hub id
            folders = {key: str(Path(getattr(self, key)).absolute()) for key in pending}
            return [
                problem
                for problem in STAGES[name].problems(replace(self, **folders))
                if problem.key not in pending
                and not (problem.key.endswith(".path") and "no such file" in problem.remedy)
            ]

    return parse(Planned, argv, prog=f"hfkit {name}", description=name)


def pipeline_stages(path: Path, output_dir: str | None, flags: list[str]) -> list[Stage]:
    """The stages of a pipeline; the models that they hand on are known from the configs that make them."""
    pipeline = read_pipeline(path)
    root = Path(output_dir or pipeline["output_dir"])
    argvs = stage_flags(pipeline, path.parent, root, flags)
    stages, made, problems = [], {}, []
    for name, argv in argvs.items():
        handed_on = {key: str(root / earlier) for key, earlier in INPUTS[name].items() if earlier in argvs}
        pending = [key for key, folder in handed_on.items() if [f"--{key}", folder] in pairs(argv)]
        try:
            config = read_config(name, argv, pending)
        except ConfigError as error:
            problems += [Problem(f"{name}.{p.key}", p.value, p.remedy) for p in error.problems]
            continue
        if name == "tokenizer":
            made[str(root / name)] = config.vocab_size
        elif not problems:
            stages.append(with_origins(name, config, made))
            made[str(root / name)] = outcome(stages[-1], str(root / name))
    if problems:
        raise ConfigError(problems)
    return stages


def pairs(words: list[str]) -> list[list[str]]:
    """Each word with the one after it."""
    return [words[place : place + 2] for place in range(len(words))]


def with_origins(name: str, config, made: dict) -> Stage:
    """A stage with the models that it starts from.

    Args:
        made: what earlier stages will make, by its folder: the size of a vocabulary, or an `Origin`.
    """
    if isinstance(config, PretrainConfig) and config.model_config:
        return Stage(name, config, new_model(config, made))
    start = origin_of("model_name_or_path", config.model_name_or_path, config.model_revision, made)
    if name != "ppo":
        return Stage(name, config, start)
    reward = origin_of("reward_model_path", config.reward_model_path, config.reward_model_revision, made)
    return Stage(name, config, start, reward)


def origin_of(key: str, path: str, revision: str, made: dict) -> Origin:
    """The model of a path: one that an earlier stage makes, or one that is there.

    Raises:
        ConfigError: its config cannot be read.
    """
    from transformers import AutoConfig

    if path in made:
        return made[path]
    try:
        source = Source.of(path, revision)
        return Origin(
            source, AutoConfig.from_pretrained(source.base, revision=source.base_revision, trust_remote_code=False)
        )
    except Exception as error:  # whatever a library says of a folder's content
        raise ConfigError([Problem(key, path, f"its config cannot be read: {reason(error)}")]) from error


def new_model(config: PretrainConfig, made: dict) -> Origin:
    """The model that pretraining makes; its vocabulary is the tokenizer's, also of one that is yet to be trained."""
    from transformers import AutoConfig

    from hfkit.checks.models import tokenizer_of

    settings = dict(config.model_config)
    path = config.tokenizer_name_or_path
    if "vocab_size" not in settings:
        settings["vocab_size"] = made[path] if path in made else len(tokenizer_of(path, "main", config.pad_token))
    source = Source(config.output_dir, "main", config.output_dir, "main", None)
    return Origin(source, AutoConfig.for_model(settings.pop("model_type"), **settings))


def outcome(stage: Stage, folder: str) -> Origin:
    """The model that a stage leaves in its folder: an adapter on the base that it started from, or a full model."""
    from peft import TaskType

    from hfkit.adapters import lora_config

    if not stage.config.use_peft:
        return Origin(Source(folder, "main", folder, "main", None), stage.start.config)
    task = TaskType.SEQ_CLS if stage.name == "reward" else TaskType.CAUSAL_LM
    source = stage.start.source
    adapter = lora_config(stage.config, source, task).to_dict()
    return Origin(Source(folder, "main", source.base, source.base_revision, adapter), stage.start.config)
