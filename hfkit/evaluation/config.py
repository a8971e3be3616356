"""What `hfkit evaluate` and `hfkit arena` are told, and what is wrong with it before any weight is loaded."""

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from hfkit.config_fields import DatasetEntry
from hfkit.errors import HfkitError, Problem

POSITIVE = ("max_rows", "max_prompts", "max_prompt_length", "response_length", "per_device_eval_batch_size")
POSITIVE = (*POSITIVE, "resamples", "diversity_prompts", "diversity_samples")
KINDS = ("reward", "function", "human")


@dataclass(kw_only=True)
class ReplyFields:
    """Prompts, and how models reply to them."""

    max_prompts: int = field(default=100, metadata={"help": "prompts replied to; of more, a choice by seed"})
    max_prompt_length: int = field(default=512, metadata={"help": "longer prompts are left out, and counted"})
    response_length: int = field(default=128, metadata={"help": "most tokens of a reply"})
    temperature: float = field(default=0.7, metadata={"help": "of the sampling, the only processor; 0: greedy"})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "rows in one forward pass"})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "dtype of the weights; auto is the checkpoint's own"}
    )
    seed: int = field(default=42, metadata={"help": "of the choice of rows and of the sampling"})

    def problems(self) -> list[Problem]:
        """Numbers out of range."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name in POSITIVE}
        problems = [Problem(key, value, "must be above 0") for key, value in values.items() if value <= 0]
        if self.temperature < 0:
            problems.append(Problem("temperature", self.temperature, "must not be negative"))
        return problems


@dataclass(kw_only=True)
class EvaluateConfig(ReplyFields):
    """A model, held against others on the same held-out rows."""

    model_name_or_path: str = field(metadata={"help": "folder or Hub id, model or adapter; the first argument"})
    model_revision: str = field(default="main", metadata={"help": "branch, tag or commit of a Hub model"})
    against: list[str] = field(default_factory=list, metadata={"help": "further models, each PATH or NAME=PATH"})
    datasets: str | list[DatasetEntry] = field(
        default_factory=list, metadata={"help": "held-out rows; default those that the model's record names"}
    )
    max_rows: int = field(default=200, metadata={"help": "held-out rows looked at; of more, a choice by seed"})
    prompts: str | list[DatasetEntry] = field(
        default_factory=list, metadata={"help": "prompts to reply to; default those of the held-out rows"}
    )
    reference: str | None = field(
        default=None, metadata={"help": "model that the KL is to; default the SFT model that PPO started from"}
    )
    reward_model: str | None = field(default=None, metadata={"help": "gives the replies their reward"})
    output_dir: str | None = field(default=None, metadata={"help": "of evaluation.json; default the model's folder"})

    def problems(self) -> list[Problem]:
        """As of its fields; models that are not there or of two kinds, rows that are not there."""
        from hfkit.checks.files import folder_problems
        from hfkit.checks.models import is_classifier, weights_problems

        model, kinds = self.model_name_or_path, {}
        problems = super().problems()
        for key, (path, revision) in self.models().items():
            wrong = weights_problems(key, path)
            problems += wrong
            if not wrong:
                kinds[key] = is_classifier(path, revision)
        other = [key for key, kind in kinds.items() if kind != kinds.get("model_name_or_path", kind)]
        problems += [Problem(key, self.models()[key][0], f"a model of another kind than {model}") for key in other]
        for key in ("reference", "reward_model"):
            if getattr(self, key) is None:
                continue
            if kinds.get("model_name_or_path"):
                problems.append(Problem(key, getattr(self, key), "is for language models, and this is a reward model"))
            problems += kind_problems(key, getattr(self, key), is_reward=key == "reward_model")
        if self.output_dir is not None or Path(model).is_dir():
            problems += folder_problems(SimpleNamespace(output_dir=self.output_dir or model))
        elif "model_name_or_path" in kinds:
            problems.append(Problem("output_dir", None, "name a folder: a Hub model has none"))
        problems += name_problems("against", [model, *self.against])
        return problems + entry_problems("datasets", self.datasets) + entry_problems("prompts", self.prompts)

    def models(self) -> dict[str, tuple[str, str]]:
        """(path, revision) of each model, by the key that names it."""
        others = {f"against[{place}]": (named(given)[1], "main") for place, given in enumerate(self.against)}
        return {"model_name_or_path": (self.model_name_or_path, self.model_revision), **others}


@dataclass(kw_only=True)
class ArenaConfig(ReplyFields):
    """Models whose replies to the same prompts a judge compares."""

    models: list[str] = field(metadata={"help": "two or more, each PATH or NAME=PATH; the first arguments"})
    prompts: str | list[DatasetEntry] = field(
        metadata={"help": "to reply to: a file, a Hub id, a data card, or entries"}
    )
    judge: str = field(metadata={"help": "reward, function, human, or a causal LM that is asked: folder or Hub id"})
    reward_model: str | None = field(default=None, metadata={"help": "that judges, with judge: reward"})
    reward_function: str | None = field(
        default=None, metadata={"help": "that judges, with judge: function; package.module:f as for PPO"}
    )
    reward_columns: list[str] = field(
        default_factory=list, metadata={"help": "columns of the prompts' data that reward_function gets"}
    )
    allow_training_judge: bool = field(
        default=False, metadata={"help": "let a reward judge the models that were trained on it, and say so"}
    )
    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples behind the intervals"})
    diversity_temperatures: list[float] = field(
        default_factory=lambda: [0.3, 0.7, 1.0], metadata={"help": "at which entropy and diversity are measured"}
    )
    diversity_prompts: int = field(default=8, metadata={"help": "prompts whose replies' diversity is measured"})
    diversity_samples: int = field(default=4, metadata={"help": "replies to each of these prompts"})
    output_dir: str = field(default="runs/arena", metadata={"help": "of arena.json, arena.png and the replies"})

    def problems(self) -> list[Problem]:
        """As of its fields; models or a judge that are not there or of another kind."""
        from hfkit.checks.files import folder_problems

        problems = super().problems() + folder_problems(self)
        for place, given in enumerate(self.models):
            problems += kind_problems(f"models[{place}]", named(given)[1], is_reward=False)
        if len(self.models) < 2:
            problems.append(Problem("models", self.models, "name two or more: hfkit arena A B"))
        problems += name_problems("models", self.models) + entry_problems("prompts", self.prompts)
        if any(temperature <= 0 for temperature in self.diversity_temperatures):
            problems.append(Problem("diversity_temperatures", self.diversity_temperatures, "each must be above 0"))
        return problems + self.judge_problems()

    def judge_problems(self) -> list[Problem]:
        """A judge without what it needs, or with what it does not read."""
        from hfkit.rlhf.scores import import_function

        needed = {"reward": "reward_model", "function": "reward_function"}.get(self.judge)
        problems = [
            Problem(key, getattr(self, key), f"has no effect with judge: {self.judge}")
            for key in ("reward_model", "reward_function")
            if key != needed and getattr(self, key) is not None
        ]
        if self.reward_columns and self.judge != "function":
            problems.append(Problem("reward_columns", self.reward_columns, "only reward_function gets columns"))
        if needed and getattr(self, needed) is None:
            return [*problems, Problem(needed, None, f"missing: what judges with judge: {self.judge}")]
        if self.judge == "function":
            try:
                import_function(self.reward_function)
            except HfkitError as error:
                problems.append(Problem("reward_function", self.reward_function, str(error)))
        if self.judge == "reward":
            problems += kind_problems("reward_model", self.reward_model, is_reward=True)
        if self.judge not in KINDS:
            problems += kind_problems("judge", self.judge, is_reward=False)
        return problems


def kind_problems(key: str, path: str, is_reward: bool) -> list[Problem]:
    """A model that is not there, or of the other kind."""
    from hfkit.checks.models import is_classifier, weights_problems

    wrong = weights_problems(key, path)
    if wrong or is_classifier(path, "main") == is_reward:
        return wrong
    if is_reward:
        return [Problem(key, path, "no reward model, which has a score head: train one with `hfkit reward`")]
    return [Problem(key, path, "a reward model, which gives no replies: name a language model")]


def named(given: str) -> tuple[str, str]:
    """Name and path of a model given as NAME=PATH, or as a path, whose last part is then its name."""
    name, sign, path = given.partition("=")
    if sign and "/" not in name and not Path(given).exists():
        return name, path
    return Path(given).name or given, given


def name_problems(key: str, given: list[str]) -> list[Problem]:
    """Models that would stand under one name in the tables."""
    counts = Counter(named(one)[0] for one in given)
    return [
        Problem(key, name, f"is the name of {count} models: write them as NAME=PATH")
        for name, count in counts.items()
        if count > 1
    ]


def entries_of(given: str | list[DatasetEntry]) -> list[DatasetEntry]:
    """The data sets of a field that may also be a path, or a data card, alone."""
    from hfkit.data.cards import card_names

    if not isinstance(given, str):
        return given
    is_card = given.endswith(".md") or (given in card_names() and not Path(given).exists())
    return [DatasetEntry(card=given) if is_card else DatasetEntry(path=given)]


def entry_problems(key: str, given: str | list[DatasetEntry]) -> list[Problem]:
    """Data sets that are not there, or that are asked for more than their rows."""
    from hfkit.checks.data import data_problems

    if not given:
        return []
    entries = entries_of(given)
    problems = [
        Problem(problem.key.replace("datasets", key, 1), problem.value, problem.remedy)
        for problem in data_problems(SimpleNamespace(datasets=entries))
    ]
    return problems + [
        Problem(f"{key}[{place}].{name}", getattr(entry, name), "every row is taken once here; rows caps them")
        for place, entry in enumerate(entries)
        for name in ("weight", "epochs", "tokens")
        if getattr(entry, name) is not None
    ]


def positional(argv: list[str], flag: str) -> list[str]:
    """A command line whose first words, before any flag, stand for the values of `flag`."""
    count = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    return [flag, *argv] if count else argv
