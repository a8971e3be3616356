"""The metadata (YAML front matter) of a model card, built from the record."""

import math

from huggingface_hub import EvalResult, ModelCardData

from hfkit.core.file_types import file_type
from hfkit.hub.cards.metric_descriptions import describe_metric, numbers_in
from hfkit.hub.cards.run_info import RunInfo, dataset_id
from hfkit.records.given_rows import name_of_rows


def model_metadata(info: RunInfo) -> dict:
    """Return the metadata that the record provides; unknown keys are left out."""
    record, base_id, results = info.record, info.base_id, eval_results(info)
    sources = [source for split in record["data"].values() for source in split["sources"]]
    return ModelCardData(
        license=record["config"].get("license"),
        base_model=base_id,
        base_model_relation=("adapter" if info.is_adapter else "finetune") if base_id else None,
        library_name="peft" if info.is_adapter else "transformers",
        pipeline_tag=pipeline_tag(info),
        datasets=sorted(filter(None, {dataset_id(source) for source in sources})) or None,
        tags=make_tags(info),
        model_name=info.name if results else None,
        eval_results=results or None,
    ).to_dict()


def pipeline_tag(info: RunInfo) -> str | None:
    """Return the Hub's task: text-classification with one label for a reward model; None for a tokenizer."""
    if info.makes == "tokenizer":
        return None
    return "text-classification" if info.is_reward_model else "text-generation"


def make_tags(info: RunInfo) -> list[str]:
    """Return the tags: hfkit, the stage, and those of trl, lora and reward-model that apply."""
    uses_trl = any(spec.uses_trl for spec in info.specs[:1])
    optional = {"trl": uses_trl, "lora": info.is_adapter, "reward-model": info.is_reward_model}
    return ["hfkit", info.stage, *(tag for tag, applies in optional.items() if applies)]


def eval_results(info: RunInfo) -> list[EvalResult]:
    """Return the held-out metrics for the Hub's model index, with the rows that they were measured on."""
    record = info.record
    measured = [(info.stage, record["metrics"], record["data"])]
    if "evaluation" in record:
        evaluation = record["evaluation"]
        measured.append(("evaluation", evaluation["metrics"], {**record["data"], **evaluation["data"]}))
    return [
        EvalResult(
            task_type=pipeline_tag(info),
            metric_type=describe_metric(origin, key).type,
            metric_name=describe_metric(origin, key).name or key,
            metric_value=float(f"{value:.4g}"),
            **describe_rows(data),
        )
        for origin, metrics, data in measured
        for key, value in numbers_in(metrics).items()
        if "test" in data and describe_metric(origin, key).type and math.isfinite(value)
    ]


def describe_rows(data: dict[str, dict]) -> dict:
    """Return how the model index names the held-out rows: by Hub id, or by file names and their format."""
    sources, rows = data["test"]["sources"], "rows"
    if "held_out_of" in sources[0]:
        sources, rows = data[sources[0]["held_out_of"]]["sources"], "held-out rows"
    names = [dataset_id(source) or name_of_rows(source["path"]) for source in sources]
    types = {dataset_id(source) or file_type(source["path"]) or "arrow" for source in sources}  # "arrow": a folder
    first = sources[0] if len(sources) == 1 and dataset_id(sources[0]) else {}
    return {
        "dataset_type": types.pop() if len(types) == 1 else "mixture",
        "dataset_name": f"{', '.join(names)} ({data['test']['kept']:,} {rows})",
        "dataset_config": first.get("name"),
        "dataset_split": first.get("split"),
        "dataset_revision": first.get("revision"),
    }
