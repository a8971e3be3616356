"""The config dataclasses of `hfkit evaluate`, `arena`, `sample` and `bench`; this module imports no heavy library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfkit.config.fields import ENGINE_HELP, DatasetEntry, Dtype, EngineName, arg

JUDGE_KINDS = ("reward", "function", "human")


@dataclass(kw_only=True)
class LoadedFields:
    """How models under evaluation are loaded and run."""

    per_device_eval_batch_size: int = arg(16, help="rows per forward pass")
    dtype: Dtype | None = arg(
        None, help="dtype of the weights; auto: as in the checkpoint; none: bfloat16 on a GPU with bf16, else float32"
    )
    seed: int = arg(42, help="seed for the choice of rows and for sampling")
    chat_template_kwargs: dict[str, Any] = arg(
        factory=dict, help="variables of the models' chat templates; empty: those saved with each model"
    )
    system_prompt: str | None = arg(
        None, help="system text of prompts without one; none: the one saved with each model; '': none at all"
    )


@dataclass(kw_only=True)
class ReplyFields(LoadedFields):
    """The prompts that models respond to, and how they sample."""

    max_prompts: int | None = arg(100, help="maximum number of prompts, chosen by seed if there are more; none: all")
    max_prompt_length: int = arg(512, help="maximum tokens per prompt; longer prompts are skipped and counted")
    response_length: int = arg(128, help="maximum tokens per response")
    temperature: float = arg(0.7, help="sampling temperature; 0: greedy; no other sampling option applies")
    rollout_engine: EngineName = arg("generate", help=ENGINE_HELP)


@dataclass(kw_only=True)
class EvaluateConfig(ReplyFields):
    """A model to evaluate on held-out rows, and models to compare it with."""

    model_name_or_path: str = arg(help="model or adapter: folder or Hub id; may be given as the first argument")
    model_revision: str = arg("main", help="branch, tag or commit of a Hub model")
    against: list[str] = arg(factory=list, help="models to compare with, each PATH or NAME=PATH")
    datasets: list[DatasetEntry] = arg(
        factory=list, help="held-out rows; empty: those recorded when the model was trained"
    )
    max_rows: int = arg(200, help="maximum number of held-out rows; if there are more, seed chooses")
    prompts: list[DatasetEntry] = arg(factory=list, help="prompts; empty: those of the held-out rows")
    reference: str | None = arg(None, help="reference model of the KL; none: the model that training started from")
    reward_model: str | None = arg(
        None, help="reward model that scores the responses: folder or Hub id; none: no scores"
    )
    output_dir: str | None = arg(None, help="folder of evaluation.json; none: the model's folder")

    def models(self) -> dict[str, tuple[str, str, str]]:
        """Return (name, path, revision) of each model by its config key."""
        others = {f"against[{index}]": (*split_name(given), "main") for index, given in enumerate(self.against)}
        return {"model_name_or_path": (*split_name(self.model_name_or_path), self.model_revision), **others}


@dataclass(kw_only=True)
class ArenaConfig(ReplyFields):
    """Models whose responses to the same prompts a judge compares."""

    models: list[str] = arg(help="two or more models, each PATH or NAME=PATH; may be given as the first arguments")
    prompts: list[DatasetEntry] = arg(help="prompts: a file, a Hub id, a data card, or dataset entries")
    judge: str = arg(help="judge: reward, function, human, or the folder or Hub id of a language model")
    reward_model: str | None = arg(None, help="with judge: reward, the reward model: folder or Hub id")
    reward_function: str | None = arg(None, help="with judge: function, package.module:f or FILE.py:f, as for PPO")
    reward_columns: list[str] = arg(factory=list, help="columns of the prompt data to pass to reward_function")
    allow_training_judge: bool = arg(False, help="allow a judge that a model was trained on (warns)")
    resamples: int = arg(1000, help="number of bootstrap resamples for the intervals")
    diversity_temperatures: list[float] = arg(
        factory=lambda: [0.3, 0.7, 1.0], help="temperatures at which to measure entropy and diversity"
    )
    diversity_prompts: int = arg(8, help="number of prompts on which to measure diversity")
    diversity_samples: int = arg(4, help="responses to each of the diversity_prompts")
    output_dir: str = arg("runs/arena", help="folder of arena.json, arena.png and the responses")


@dataclass(kw_only=True)
class SampleConfig(ReplyFields):
    """Models that respond several times to each prompt, and what becomes of the responses."""

    models: list[str] = arg(help="one or more models, each PATH or NAME=PATH; may be given as the first arguments")
    prompts: list[DatasetEntry] = arg(help="prompts: a file, a Hub id, a data card, or dataset entries")
    num_samples: int = arg(4, help="number of responses of each model to each prompt; -k is short for it")
    temperature: float = arg(
        1.0, help="sampling temperature; 1 is the model's own distribution; `hfkit chat` has 0.7 by default"
    )
    temperatures: list[float] = arg(
        factory=list, help="temperatures to use in turn for the samples of a prompt; empty: temperature"
    )
    max_prompts: int | None = arg(None, help="maximum number of prompts, chosen by seed; none: all")
    reward_model: str | None = arg(None, help="reward model that scores the responses")
    best: bool = arg(False, help="write the response with the highest score to each prompt, as rows for SFT")
    vote: str | None = arg(
        None,
        help="write the majority answer to each prompt; the answer is what this regular expression finds last in a "
        "response (its first group if it has one), or what package.module:f or FILE.py:f returns for it",
    )
    output_dir: str = arg("runs/samples", help="folder for samples.jsonl, best.jsonl, votes.jsonl, sample.json")


@dataclass(kw_only=True)
class BenchConfig(LoadedFields):
    """Models to run through tasks of lm-evaluation-harness."""

    models: list[str] = arg(
        help="models or adapters, each PATH or NAME=PATH, or the folder of a pipeline: each of its language models in "
        "the order of training; may be given as the first arguments"
    )
    tasks: list[str] = arg(help="tasks, groups or tags of lm-evaluation-harness by name, or YAML files of tasks")
    include_path: str | None = arg(None, help="folder of YAML files with tasks, in addition to those of the harness")
    limit: int | None = arg(None, help="number of rows per task, from its first row; none: all")
    num_fewshot: int | None = arg(None, help="solved examples before each question; none: as the task sets")
    apply_chat_template: bool = arg(False, help="write questions with each model's chat template and system prompt")
    allow_code: bool = arg(False, help="allow tasks that execute code: Python of task files, unsafe_code, metrics")
    seed: int = arg(42, help="seed for solved examples and for sampling")
    output_dir: str = arg("runs/bench", help="folder for bench.json, bench.png, bench.jsonl")


def split_name(given: str) -> tuple[str, str]:
    """Return name and path of a model given as NAME=PATH, or as PATH: then the name is the last part of the path."""
    name, sign, path = given.partition("=")
    if sign and "/" not in name and not Path(given).exists():
        return name, path
    return Path(given).name or given, given
