"""The front matter of a model card, from the record: what the Hub reads of a model."""

import math
from pathlib import PurePath

from huggingface_hub import EvalResult, ModelCardData

from hfkit.core.file_types import BUILDERS
from hfkit.hub.cards.artefact import Artefact, dataset_id
from hfkit.hub.cards.figures import figure_of, numbers_in

TRL = ("sft", "reward", "ppo")  # the stages that train with TRL


def front_matter(artefact: Artefact) -> dict:
    """The keys that the record can tell, each as the Hub's metadata has it; what is not known is left out."""
    record, on_hub = artefact.record, artefact.base_id
    results = eval_results(artefact)
    return ModelCardData(
        license=record["config"].get("license"),
        base_model=on_hub,
        base_model_relation=("adapter" if artefact.is_adapter else "finetune") if on_hub else None,
        library_name="peft" if artefact.is_adapter else "transformers",
        pipeline_tag=hub_task(artefact),
        datasets=sorted(filter(None, {dataset_id(source) for source in sources_of(record)})) or None,
        tags=tags(artefact),
        model_name=artefact.name if results else None,
        eval_results=results or None,
    ).to_dict()


def hub_task(artefact: Artefact) -> str | None:
    """The Hub's task: a reward model classifies, with one label; a tokenizer has none."""
    if artefact.stage == "tokenizer":
        return None
    return "text-classification" if artefact.is_reward else "text-generation"


def tags(artefact: Artefact) -> list[str]:
    named = {"trl": artefact.stage in TRL, "lora": artefact.is_adapter, "reward-model": artefact.is_reward}
    return ["hfkit", artefact.stage, *(tag for tag, is_so in named.items() if is_so)]


def sources_of(record: dict) -> list[dict]:
    """All sources of rows of a record, those of training first."""
    return [source for split in record["data"].values() for source in split["sources"]]


def eval_results(artefact: Artefact) -> list[EvalResult]:
    """The figures on held-out rows as the Hub's model index has them, with the rows that they were measured on."""
    record = artefact.record
    measured = [(artefact.stage, record["metrics"], record["data"])]
    if "evaluation" in record:
        evaluation = record["evaluation"]
        measured.append(("evaluation", evaluation["metrics"], {**record["data"], **evaluation["data"]}))
    return [
        EvalResult(
            task_type=hub_task(artefact),
            metric_type=figure_of(stage, key).type,
            metric_name=figure_of(stage, key).name or key,
            metric_value=float(f"{value:.4g}"),
            **rows_measured(data),
        )
        for stage, metrics, data in measured
        for key, value in numbers_in(metrics).items()
        if "test" in data and figure_of(stage, key).type and math.isfinite(value)
    ]


def rows_measured(data: dict[str, dict]) -> dict:
    """The held-out rows as the model index names a data set: a Hub id as its type, of files their format."""
    sources, rows = data["test"]["sources"], f"{data['test']['kept']:,} rows"
    if "held_out_of" in sources[0]:
        sources, rows = data[sources[0]["held_out_of"]]["sources"], f"{rows} held out"
    names = [dataset_id(source) or PurePath(source["path"]).name for source in sources]
    kinds = {dataset_id(source) or format_of(source["path"]) for source in sources}
    first = sources[0] if len(sources) == 1 and dataset_id(sources[0]) else {}
    return {
        "dataset_type": kinds.pop() if len(kinds) == 1 else "mixture",
        "dataset_name": f"{', '.join(names)} ({rows})",
        "dataset_config": first.get("name"),
        "dataset_split": first.get("split"),
        "dataset_revision": first.get("revision"),
    }


def format_of(path: str) -> str:
    """The format of a data file, by the name of its reader; a folder's is Arrow."""
    return next((BUILDERS[suffix] for suffix in PurePath(path).suffixes[::-1] if suffix in BUILDERS), "arrow")
