"""Finds the models of `hfkit bench`: those that are named, and the language models of a pipeline."""

from pathlib import Path

from hfkit.config.evaluation import split_name
from hfkit.config.registry import spec_of
from hfkit.core.files import RECORD
from hfkit.records.record import read_record
from hfkit.records.training_order import training_order

FILES_OF_A_MODEL = (RECORD, "config.json", "adapter_config.json")
"""A folder with one of these files is a model or a run, not the folder of a pipeline."""


def bench_models(given: list[str]) -> list[tuple[str, str]]:
    """Return name and path of each model; the folder of a pipeline stands for its language models.

    Args:
        given: PATH or NAME=PATH of each.
    """
    models = []
    for one in given:
        name, path = split_name(one)
        found = language_models_in(Path(path))
        models += [(folder.name, str(folder)) for folder in found] or [(name, path)]
    return models


def language_models_in(folder: Path) -> list[Path]:
    """Return the folders of a pipeline's finished language models in the order of training; [] for another folder."""
    if not folder.is_dir() or any((folder / name).is_file() for name in FILES_OF_A_MODEL):
        return []
    records = {path.parent: read_record(path.parent) for path in folder.glob(f"*/{RECORD}")}
    records = {path: record for path, record in records.items() if record}
    return [path for path in training_order(records) if is_language_model(records[path])]


def is_language_model(record: dict) -> bool:
    """Return whether a record is that of a finished run that made a language model."""
    spec = spec_of(record.get("stage"))
    return record.get("status") == "done" and spec is not None and spec.makes not in ("tokenizer", "reward model")
