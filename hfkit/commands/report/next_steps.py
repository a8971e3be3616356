"""The commands that would add results to a report which lacks them."""

import shlex
from pathlib import Path

from hfkit.commands.report.gather import Gathered, ReportedRun
from hfkit.core.files import RECORD


def next_steps(gathered: Gathered) -> list[tuple[str, str]]:
    """Return the results that a report lacks (evaluation, arena, benchmarks), each with the command that adds them."""
    done = [run for run in gathered.runs if run.record.get("status") == "done"]
    models = [run for run in done if run.spec and run.spec.makes not in ("tokenizer", "reward model")]
    assistants = [run for run in models if run.spec and run.spec.makes == "assistant"]
    rewards = [run for run in done if run.spec and run.spec.makes == "reward model"]
    steps = []
    if (models or rewards) and not gathered.evaluations and not gathered.summary.get("models"):
        command = evaluate_command(models, rewards) if models else shell("hfkit", "evaluate", rewards[-1].folder)
        steps.append(("Held-out metrics with intervals", command))
    if len(assistants) > 1 and not gathered.arenas:
        before, after = assistants[-2:]
        words = ("hfkit", "arena", before.folder, after.folder, "--prompts", "my-prompts.jsonl", "--judge", "human")
        command = shell(*words, "--output_dir", gathered.folder / "arena")  # where the next report finds the results
        steps.append(("A comparison of responses", command))
    if models and not gathered.benches:
        named = [run.folder for run in models] if (gathered.folder / RECORD).is_file() else [gathered.folder]
        words = ("hfkit", "bench", *named, "--tasks", "arc_easy", "hellaswag", "--limit", "200")
        steps.append(("What alignment cost", shell(*words, "--output_dir", gathered.folder / "bench")))
    return steps


def evaluate_command(models: list[ReportedRun], rewards: list[ReportedRun]) -> str:
    """Return the command that evaluates the last model against the one that it started from."""
    last = models[-1]
    starts = [Path(entry["path"]) for entry in last.record.get("lineage", []) if entry["role"] == "start"]
    others = [run.folder for run in models[:-1] if run.folder.name in [path.name for path in starts]] or starts
    words = ["hfkit", "evaluate", last.folder, *(["--against", others[0]] if others else [])]
    return shell(*words, *(["--reward_model", rewards[-1].folder] if rewards else []))


def shell(*words: object) -> str:
    """Return the words as a command line."""
    return shlex.join(map(str, words))
