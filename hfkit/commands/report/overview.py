"""The overview of a report: what each stage trains on, how, from what, and with what result."""

from dataclasses import dataclass

from hfkit.commands.report.data_table import dataset_title, source_titles
from hfkit.commands.report.formatting import duration, format_count, format_interval, format_number
from hfkit.commands.report.gather import Gathered, ReportedRun

ROW_NAMES = {"text": "documents", "instructions": "conversations", "comparisons": "comparisons", "prompts": "prompts"}
"""What the rows of a form are called."""


@dataclass
class StageCard:
    """A column of the overview.

    Args:
        phase: the name of this part of training.
        name: the run's name in the report if it differs, and its state if it is not done.
        parts: title and lines of text of each part; the first line of a part is its main one.
    """

    phase: str
    name: str
    status: str
    parts: list[tuple[str, list[str]]]


def stage_cards(gathered: Gathered) -> list[StageCard]:
    """Return a column for each run that trained a model, in the order of training."""
    titles = source_titles(gathered)
    return [
        StageCard(
            run.spec.phase or run.spec.title,
            name_line(run),
            run.record.get("status", ""),
            [
                ("Dataset", dataset_lines(run, titles)),
                ("Algorithm", [run.spec.objective or run.spec.purpose]),
                ("Model", model_lines(run, gathered)),
                ("This run", result_lines(run)),
                ("Cost", cost_lines(run)),
            ],
        )
        for run in gathered.runs
        if run.spec is not None and run.spec.trains_a_model
    ]


def name_line(run: ReportedRun) -> str:
    """Return the name of a run if it is not that of its phase, and its state if it is not done."""
    name = "" if run.name == (run.spec.phase or run.spec.title) else run.name
    return ": ".join(filter(None, [name, "" if run.state == "done" else run.state]))


def dataset_lines(run: ReportedRun, titles: dict[str, str]) -> list[str]:
    """Return the names of a run's training data, and its number of rows and tokens."""
    split = run.record.get("data", {}).get("train")
    if not split:
        return ["not recorded"]
    names = [dataset_title(source, titles) for source in split["sources"]]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    rows = f"{format_count(split['kept'])} {ROW_NAMES.get(run.spec.form or '', 'rows')}"
    return [shown, rows, *([f"{format_count(split['tokens'])} tokens"] if split.get("tokens") else [])]


def model_lines(run: ReportedRun, gathered: Gathered) -> list[str]:
    """Return what a run started from, what it made, and how its weights were trained."""
    config, makes = run.record.get("config", {}), run.spec.makes or "model"
    parents = [(entry["role"], gathered.name_of(entry)) for entry in run.record.get("lineage", [])]
    starts = [name for role, name in parents if role == "start"]
    lines = [f"{starts[0]} → {makes}" if starts else f"new weights → {makes}"]
    lines += [f"reward from {name}" for role, name in parents if role == "reward"]
    if not [role for role, _ in parents if role == "reward"] and config.get("reward_functions"):
        lines.append(f"reward from {', '.join(name.rpartition(':')[2] for name in config['reward_functions'])}")
    trained = "LoRA adapter" if config.get("use_peft") else "all weights"
    bits = next((f" on a base in {bits} bits" for bits in (4, 8) if config.get(f"load_in_{bits}bit")), "")
    return [*lines, trained + bits]


def result_lines(run: ReportedRun) -> list[str]:
    """Return the main metrics of a run: of held-out rows, if it has any."""
    metrics, lines = run.record.get("metrics", {}), []
    if run.spec.samples_replies:
        lines += [line for line in (reward_line(run, metrics), kl_line(metrics)) if line]
    elif "eval_loss" in metrics:
        lines.append(f"held-out loss {format_number(metrics['eval_loss'])}")
    elif "train_loss" in metrics:
        lines.append(f"training loss {format_number(metrics['train_loss'])}")
    if "eval_accuracy" in metrics:
        ends = (metrics.get(f"eval_accuracy_{end}") for end in ("low", "high"))
        lines.append(f"held-out accuracy {format_interval(metrics['eval_accuracy'], *ends)}")
    elif "eval_perplexity" in metrics:
        lines.append(f"held-out perplexity {format_number(metrics['eval_perplexity'])}")
    return lines or [run.state]


def reward_line(run: ReportedRun, metrics: dict) -> str:
    """Return the mean reward before and after training: on held-out prompts, else in the first and last updates."""
    before, after = metrics.get("eval_reward_sft"), metrics.get(f"eval_reward_{run.stage}")
    label = "held-out reward"
    if before is None or after is None:
        before, after, label = metrics.get("reward_first"), metrics.get("reward_last"), "training reward"
    if before is None or after is None:
        return ""
    return f"{label} {format_number(before)} → {format_number(after)}"


def kl_line(metrics: dict) -> str:
    """Return the KL to the model that training started from."""
    kl = metrics.get("eval_kl", metrics.get("kl_last"))
    return "" if kl is None else f"KL {format_number(kl)} nats per response"


def cost_lines(run: ReportedRun) -> list[str]:
    """Return the time of a run, its steps and its device."""
    record = run.record
    device = record.get("environment", {}).get("device")
    where = "" if not device else " on the CPU" if device == "cpu" else f" on {device}"
    steps = [f"{format_count(record['steps'])} {run.spec.step_name}"] if record.get("steps") else []
    return [duration(record.get("wall_seconds")) + where, *steps]
