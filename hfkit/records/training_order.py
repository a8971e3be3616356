"""Sorts the runs of a folder in the order in which they were trained."""

from collections.abc import Mapping
from pathlib import Path

from hfkit.config.registry import MERGE, STAGES


def training_order(records: Mapping[Path, dict]) -> list[Path]:
    """Return the folders of runs in the order of training, by their records: each run follows its parents.

    The lineage decides. Runs that it does not order are in the order of the registry, then of their names.
    """
    stages = [*STAGES, MERGE.name]

    def rank(folder: Path) -> tuple[int, str]:
        stage = records[folder].get("stage") or folder.name
        return stages.index(stage) if stage in stages else len(stages), folder.name

    waiting = sorted(records, key=rank)
    ordered: list[Path] = []
    parents = {folder: parents_among(folder, records) for folder in records}
    while waiting:
        ready = [folder for folder in waiting if parents[folder] <= {*ordered}]
        ordered.append(next(iter(ready), waiting[0]))  # records that name each other as parents have no order
        waiting.remove(ordered[-1])
    return ordered


def parents_among(folder: Path, records: Mapping[Path, dict]) -> set[Path]:
    """Return the folders that a run's lineage names; a run that moved with its parents is found by name and stage."""
    by_path = {str(other.resolve()): other for other in records}
    by_name = {(other.name, record.get("stage")): other for other, record in records.items()}
    found: set[Path | None] = set()
    for entry in records[folder].get("lineage") or []:
        path = entry.get("run") or entry["path"]  # a checkpoint is of a run
        same_name = by_name.get((Path(path).name, entry.get("stage")))
        found.add(by_path.get(path, same_name))
    return {one for one in found if one is not None and one != folder}
