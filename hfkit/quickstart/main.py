"""hfkit quickstart --output_dir runs/quickstart

Runs the whole pipeline on a small generated world: writes its data, runs the five stages of
`configs/quickstart/pipeline.yaml`, and shows the results of each stage: a table, `summary.json`, `summary.png`, an
arena of base, SFT and PPO in `arena/`, judged by the gold scorer, and a page with all results, `report.html`. It needs
no network and takes minutes on two CPU cores. Stages that are done already are skipped.
"""

import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from hfkit.commands.report.main import write_report
from hfkit.config.registry import STAGES
from hfkit.core.console import say
from hfkit.evaluation.arena import print_arena
from hfkit.quickstart.summary import print_summary, run_arena, summarize
from hfkit.quickstart.world import write_world
from hfkit.stages.pipeline import run_pipeline
from hfkit.stages.pipeline_file import read_pipeline

WORLD_SEED = 0  # the facts are always the same; --seed changes the training
WORLD_FILES = {
    "text": ("documents", "documents_test"),
    "instructions": ("instructions", "instructions_test"),
    "comparisons": ("preferences", "preferences_test"),
    "prompts": ("prompts", None),
}
"""Form of a stage's rows -> the world's files to train and to evaluate on."""


def run_quickstart(output_dir: str | Path, configs: str | Path, flags: list[str]) -> dict:
    """Write the world, train and evaluate; return the summary.

    Args:
        output_dir: gets a folder for each stage, `world/`, and the summary.
        configs: folder of `pipeline.yaml` and the YAMLs of the stages.
        flags: of the pipeline, for example `["--seed", "1"]`.
    """
    root, pipeline = Path(output_dir), Path(configs) / "pipeline.yaml"
    stages = read_pipeline(pipeline).stages  # fails before anything is written if the path is wrong
    files = write_world(root / "world", WORLD_SEED)
    rows = ", ".join(f"{count:,} {name.removesuffix('.jsonl')}" for name, count in files.items())
    say(f"small world in {root / 'world'}: {rows}")
    run_pipeline(pipeline, str(root), [*world_flags(stages, root / "world"), *flags])
    summary = summarize(root)
    ratings = run_arena(root)
    print_summary(summary, root)
    print_arena(ratings)
    say(f"report: {write_report(root)}")
    return summary


def world_flags(stages: Iterable[str], world: Path) -> list[str]:
    """Return the flags that give each stage its files of the world.

    Stages that sample responses also log their gold score, with a weight of 0 in the reward.
    """
    flags = []
    for stage in stages:
        spec = STAGES[stage]
        train, test = WORLD_FILES.get(spec.form or "", (None, None))
        for key, name in (("datasets", train), ("eval_datasets", test if spec.trains_a_model else None)):
            if name:
                flags += [f"--{stage}.{key}", json.dumps([{"path": str(world / f"{name}.jsonl")}])]
        if spec.samples_replies:
            flags += [f"--{stage}.reward_functions", "hfkit.quickstart.gold:gold"]
            flags += [f"--{stage}.reward_weights", "1", "0"]
    return flags


def main(given: Namespace) -> int:
    """Run `hfkit quickstart`."""
    run_quickstart(given.output_dir, given.configs, given.flags)
    return 0
