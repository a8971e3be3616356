"""Opens the run of a stage: the record gets the data that it reads and the models that it starts from."""

from hfkit.core.console import say
from hfkit.data.splits import SplitStats
from hfkit.records.record import lineage_entry
from hfkit.training.run import Run

# Each role in the lineage, with the config keys of the model that has it and of its revision.
ROLES = [("start", "model_name_or_path", "model_revision"), ("reward", "reward_model_path", "reward_model_revision")]


def open_run(stage: str, config, stats: dict[str, SplitStats]) -> Run:
    """Open the run of a stage and report if it is done already; `stats` tells what became of each split's rows."""
    models = [(role, getattr(config, path, None), revision) for role, path, revision in ROLES]
    parents = [lineage_entry(role, path, getattr(config, revision)) for role, path, revision in models if path]
    run = Run(stage, config, {name: split.as_dict() for name, split in stats.items()}, parents)
    if run.is_done:
        say(f"{stage}: already done in {run.folder}")
    return run
