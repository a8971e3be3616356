"""Opens the run of a stage, and records its data, the models that it starts from, and their dtype."""

from dataclasses import replace

from hfkit.config.fields import ModelFields, models_named
from hfkit.config.learning_rates import rate_warning
from hfkit.config.trainer_fields import OptimizerFields
from hfkit.core.agreement import require_same
from hfkit.core.console import say, warn
from hfkit.core.launch import engine, world_size
from hfkit.data.splits import SplitStats
from hfkit.models.loading import dtype_to_train
from hfkit.records.record import lineage_entry
from hfkit.training.run import Run


def open_run(stage: str, config, stats: dict[str, SplitStats]) -> Run:
    """Open the run of a stage, with a copy of its config in which the dtype is set; report if it is done already.

    Args:
        stats: statistics of each split's rows.
    """
    if isinstance(config, ModelFields):
        config = replace(config, dtype=dtype_to_train(config))
    if isinstance(config, OptimizerFields) and (warning := rate_warning(stage, config)):
        warn(warning)
    parents = [lineage_entry(*model) for model in models_named(config)]
    run = Run(stage, config, {name: split.as_dict() for name, split in stats.items()}, parents)
    weights = {f"weights of {parent['path']}": parent["weights_sha256"] for parent in parents}
    checkpoint = run.checkpoint.name if run.checkpoint else None
    found = {"datasets (their rows)": run.record["data_sha256"], "checkpoint to resume from": checkpoint, **weights}
    require_same(found, "make all machines read the same files")
    if run.is_done:
        stopped = run.before.get("stopped")
        say(f"{stage}: already done in {run.folder}{f', stopped early: {stopped}' if stopped else ''}")
        run.update_license()
    elif (count := world_size()) > 1:
        say(f"{stage}: {count} processes ({engine(getattr(config, 'extra', {})) or 'ddp'})")
    return run
