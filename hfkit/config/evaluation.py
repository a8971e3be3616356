"""The dataclasses that `hfkit evaluate` and `hfkit arena` fill; nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hfkit.config.fields import DatasetEntry

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


def named(given: str) -> tuple[str, str]:
    """Name and path of a model given as NAME=PATH, or as a path, whose last part is then its name."""
    name, sign, path = given.partition("=")
    if sign and "/" not in name and not Path(given).exists():
        return name, path
    return Path(given).name or given, given
