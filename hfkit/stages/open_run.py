"""Opens the run of a stage: the record gets the data that it reads and the models that it starts from."""

from hfkit.config.fields import models_named
from hfkit.core.console import say
from hfkit.data.splits import SplitStats
from hfkit.records.record import lineage_entry
from hfkit.training.run import Run


def open_run(stage: str, config, stats: dict[str, SplitStats]) -> Run:
    """Open the run of a stage and report if it is done already; `stats` tells what became of each split's rows."""
    parents = [lineage_entry(*model) for model in models_named(config)]
    run = Run(stage, config, {name: split.as_dict() for name, split in stats.items()}, parents)
    if run.is_done:
        say(f"{stage}: already done in {run.folder}")
    return run
