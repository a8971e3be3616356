"""Reads the content of a report from a folder of runs: records, metrics, evaluations, arenas, samples."""

import re
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from hfkit.config.registry import StageSpec, spec_of
from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD, read_json_mapping
from hfkit.core.limits import load_json
from hfkit.core.masking import without_secrets
from hfkit.data.messages import readable_turns
from hfkit.records.lineage import family_records
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.records.training_order import training_order

STATUS_TITLES = {"done": "done", "running": "not finished", "interrupted": "interrupted", "failed": "failed"}
RENDERED = "as the model reads it"
"""The role of a prompt of which only the rendered text is known, as in runs of earlier versions."""


@dataclass
class ReportedRun:
    """One run: its folder, its record, the lines of its `metrics.jsonl`, and its name in the report."""

    folder: Path
    record: dict
    metrics: list[dict]
    name: str = ""

    @property
    def stage(self) -> str:
        """Name of the stage; that of the folder if the record has none."""
        return self.record.get("stage") or self.folder.name

    @property
    def spec(self) -> StageSpec | None:
        """The stage's spec; None for a stage that is not registered."""
        return spec_of(self.stage)

    @property
    def state(self) -> str:
        """How the run ended; also whether a done one stopped before its last step, by `max_kl` or without progress."""
        if self.record.get("status") == "done" and self.record.get("stopped"):
            return "stopped early"
        return STATUS_TITLES.get(self.record.get("status"), "unknown")

    @property
    def warnings(self) -> list[str]:
        """The run's warnings, and why it stopped early or failed."""
        record = self.record
        reported = [*record.get("warnings", []), record.get("stopped")]
        if record.get("status") == "failed":
            reported.append(f"the run failed ({record.get('error', 'for an unknown reason')})")
        return [*dict.fromkeys(filter(None, reported))]


@dataclass
class Gathered:
    """The content of a report; missing parts are empty."""

    folder: Path
    runs: list[ReportedRun]
    summary: dict = field(default_factory=dict)
    arenas: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    benches: list[dict] = field(default_factory=list)

    def name_of(self, model: dict) -> str:
        """Return the name in the report of a model with `path` and `stage`; for others that of its folder or Hub id."""
        path, stage = model["path"], model.get("stage")
        named = [run for run in self.runs if (run.folder.name, run.stage) == (Path(path).name, stage)]
        if named:  # runs of several rounds have the same names; the paths of moved runs differ at their beginning
            return max(named, key=lambda run: equal_parts_at_end(run.folder.resolve(), Path(path).resolve())).name
        return Path(path).name if Path(path).is_absolute() else path


def equal_parts_at_end(one: Path, other: Path) -> int:
    """Return how many parts at the end of two paths are equal."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])


def gather(folder: Path) -> Gathered:
    """Read the runs in a pipeline's folder, or one run with its ancestors.

    Raises:
        HfkitError: there is no such folder, it holds no run, or the runs have logged nothing.
    """
    if not folder.is_dir():
        raise HfkitError(
            f"{folder} is not a folder: name the folder of a pipeline or of a run, such as runs/quickstart"
        )
    records = ((path, read_record(path)) for path in run_folders(folder))
    runs = [ReportedRun(path, without_secrets(record), read_metrics(path)) for path, record in records if record]
    if not runs:
        raise HfkitError(f"{folder} holds no run: neither it nor a folder in it has a readable {RECORD}")
    if not any(run.metrics or run.record.get("status") == "done" for run in runs):
        states = ", ".join(f"{run.folder.name}: {run.record.get('status')}" for run in runs)
        raise HfkitError(f"nothing was logged in {folder} yet ({states}): there is nothing to report")
    order_and_name(runs, folder)
    return Gathered(
        folder,
        runs,
        summary=read_json_mapping(folder / "summary.json") or {},
        arenas=read_results(folder, runs, "arena.json"),
        evaluations=read_results(folder, runs, "evaluation.json"),
        benches=read_results(folder, runs, "bench.json"),
    )


def order_and_name(runs: list[ReportedRun], root: Path) -> None:
    """Sort runs by round and in the order of training; name them by their stage, and by round or folder if needed."""
    order = training_order({run.folder: run.record for run in runs})
    rounds = {run.folder: round_of(run.folder, root) for run in runs}
    runs.sort(key=lambda run: (rounds[run.folder], order.index(run.folder)))
    stages = [run.stage for run in runs]
    for run in runs:
        name = f"round {rounds[run.folder]}" if rounds[run.folder] else run.folder.name
        run.name = title_of(run.stage) + (f" ({name})" if stages.count(run.stage) > 1 else "")


def round_of(run: Path, root: Path) -> int:
    """Return the number of the round of a run's folder; 0 for one that is in no round."""
    found = re.fullmatch(r"round_(\d+)", run.parent.name)
    return int(found[1]) if found and run.parent.parent == root else 0


def run_folders(folder: Path) -> list[Path]:
    """Return the folders of a pipeline's runs; for a run, its folder and those of its ancestors that still exist."""
    if not (folder / RECORD).is_file():
        return [path.parent for pattern in ("*", "round_*/*") for path in sorted(folder.glob(f"{pattern}/{RECORD}"))]
    family = [*family_records([(str(folder), "main")], local=True)]
    tokenizers = [record.get("config", {}).get("tokenizer_name_or_path") for _, _, record in family]
    family += family_records([(path, "main") for path in tokenizers if path], local=True)
    return [*dict.fromkeys(Path(path) for path, _, _ in family)]


def title_of(stage: str) -> str:
    """Return the title of a stage; its name if it is not registered."""
    spec = spec_of(stage)
    return spec.title if spec else stage


def read_results(folder: Path, runs: list[ReportedRun], name: str) -> list[dict]:
    """Return the contents of all JSON files of a name in the folder, in its subfolders, and in the folders of runs."""
    folders = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir()), *(run.folder for run in runs)]
    files = dict.fromkeys(path.resolve() / name for path in folders)
    return [content for file in files if (content := read_json_mapping(file))]


def samples_of(gathered: Gathered) -> list[dict]:
    """Return responses of several models to the same prompts, each as {turns: messages, replies: responses by model}.

    They come from an arena, else from the quickstart, else from before and after the training of a run.
    """
    models = gathered.summary.get("models", {})
    of_summary = [
        {"prompt": prompt, "replies": {name: model["samples"][index] for name, model in models.items()}}
        for index, prompt in enumerate(gathered.summary.get("prompts_shown", []))
    ]
    of_arenas, of_evaluations = ([one.get("samples") for one in of] for of in (gathered.arenas, gathered.evaluations))
    if found := next(filter(None, [*of_arenas, of_summary, *of_evaluations]), None):
        return [{"turns": readable_turns(one["prompt"]), "replies": one["replies"]} for one in found]
    for run in reversed(gathered.runs):
        file, title = run.folder / "samples.jsonl", title_of(run.stage)
        lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
        rows = [load_json(line) for line in lines if line]
        if rows and all("before" in row for row in rows):
            return [
                {
                    "turns": row.get("messages") or [{"role": RENDERED, "content": row["prompt"]}],
                    "replies": {f"before {title}": row["before"], f"after {title}": row["after"]},
                }
                for row in rows
            ]
    return []


def judge_of(arena: dict) -> str:
    """Return the name of an arena's judge."""
    judge = arena.get("judge", {})
    name = str(judge.get("name") or judge.get("kind") or "an unnamed judge")
    return Path(name).name if Path(name).is_absolute() else name


def watched_scores(run: ReportedRun) -> list[str]:
    """Return the metric keys of scores with weight 0, which a run logs with its KL but does not train on."""
    settings = run.record.get("config", {})
    parts = ["model"] * bool(settings.get("reward_model_path")) + settings.get("reward_functions", [])
    weights = settings.get("reward_weights") or [1.0] * len(parts)
    keys = [f"objective/score_{part}" for part, weight in zip(parts, weights, strict=True) if weight == 0]
    return [key for key in keys if any({key, "objective/kl"} <= row.keys() for row in run.metrics)]
