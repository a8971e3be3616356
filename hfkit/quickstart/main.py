"""hfkit quickstart --output_dir runs/quickstart

The whole chain on a small world of the project's own: writes the world, runs the five stages of
`configs/quickstart/pipeline.yaml` on it, and shows what each stage brought: a table, `summary.json`, `summary.png`, and
an arena of base, SFT and PPO that the hidden rule judges, in `arena/`, and a page on all of it, `report.html`.
Offline, on two CPU cores, in minutes. What is done already is skipped.
"""

import json
from argparse import Namespace
from pathlib import Path

from hfkit.commands.report.main import write_report
from hfkit.core.console import say
from hfkit.evaluation.arena import print_arena as show_arena
from hfkit.quickstart.summary import print_summary, run_arena, summarize
from hfkit.quickstart.world import write_world
from hfkit.stages.pipeline import read_pipeline, run_pipeline

WORLD_SEED = 0  # one world; --seed changes the training, not what is true
# The gold scorer is looked at in each update, and has no weight in the reward.
GOLD_FLAGS = ["--ppo.reward_functions", "hfkit.quickstart.gold:gold", "--ppo.reward_weights", "1", "0"]


def run_quickstart(output_dir: str | Path, configs: str | Path, flags: list[str]) -> dict:
    """Writes the world, trains, evaluates; returns the summary.

    Args:
        output_dir: gets a folder per stage, `world/`, and the summary.
        configs: folder of `pipeline.yaml` and the stages' YAMLs.
        flags: handed on to the pipeline, as `["--seed", "1"]`.
    """
    root, pipeline = Path(output_dir), Path(configs) / "pipeline.yaml"
    read_pipeline(pipeline)  # tells a wrong path before anything is written
    files = write_world(root / "world", WORLD_SEED)
    say(f"a small world in {root / 'world'}: " + ", ".join(f"{rows:,} {name[:-6]}" for name, rows in files.items()))
    run_pipeline(pipeline, str(root), [*data_flags(root / "world"), *GOLD_FLAGS, *flags])
    summary = summarize(root)
    ratings = run_arena(root)
    print_summary(summary, root)
    show_arena(ratings)
    say(f"report: {write_report(root)}")
    return summary


def data_flags(world: Path) -> list[str]:
    """The world's files as the data of each stage."""
    flags = []
    for stage, train, test in (
        ("tokenizer", "documents", None),
        ("pretrain", "documents", "documents_test"),
        ("sft", "instructions", "instructions_test"),
        ("reward", "preferences", "preferences_test"),
        ("ppo", "prompts", None),
    ):
        for key, name in (("datasets", train), ("eval_datasets", test)):
            if name:
                flags += [f"--{stage}.{key}", json.dumps([{"path": str(world / f"{name}.jsonl")}])]
    return flags


def main(given: Namespace) -> int:
    """Run `hfkit quickstart`."""
    run_quickstart(given.output_dir, given.configs, given.flags)
    return 0
