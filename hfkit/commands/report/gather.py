"""What a folder of runs holds, read into plain data: records, metrics, evaluations, arenas, samples."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from hfkit.config.registry import STAGES, spec_of
from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD, read_json_mapping
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record


def title_of(stage: str | None, otherwise: str) -> str:
    """Return the title of a stage."""
    spec = spec_of(stage)
    return spec.title if spec else otherwise


@dataclass
class ReportedRun:
    """One run: its folder, its record, the lines of its `metrics.jsonl`."""

    folder: Path
    record: dict
    metrics: list[dict]
    name: str = ""

    @property
    def kind(self) -> str:
        """ "sft", "ppo" and so on."""
        return self.record.get("stage") or self.folder.name

    @property
    def warnings(self) -> list[str]:
        """What the run warned of, and what stopped it."""
        record = self.record
        told = [*record.get("warnings", []), record.get("stopped")]
        if record.get("status") == "failed":
            told.append(f"the run failed ({record.get('error', 'for an unknown reason')})")
        return [*dict.fromkeys(filter(None, told))]


@dataclass
class Gathered:
    """Everything that a report is made of; what is not there is empty."""

    folder: Path
    stages: list[ReportedRun]
    summary: dict = field(default_factory=dict)
    arenas: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)

    def of(self, kind: str) -> list[ReportedRun]:
        """The runs of a stage."""
        return [stage for stage in self.stages if stage.kind == kind]


def gather(folder: Path) -> Gathered:
    """The runs of a pipeline's folder, or of one stage's with those it was made from.

    Raises:
        HfkitError: no folder, no run in it, or runs that have not come to anything yet.
    """
    if not folder.is_dir():
        raise HfkitError(f"{folder} is no folder: name that of a pipeline or of a run, as runs/quickstart")
    if (folder / RECORD).is_file():
        places = run_and_ancestors(folder)
    else:
        places = [path.parent for path in folder.glob(f"*/{RECORD}")]
    stages = [ReportedRun(place, record, read_metrics(place)) for place in places if (record := read_record(place))]
    if not stages:
        raise HfkitError(f"{folder} holds no run: there is no {RECORD} that can be read in it, nor in a folder of it")
    if not any(stage.metrics or stage.record.get("status") == "done" for stage in stages):
        states = ", ".join(f"{stage.folder.name}: {stage.record.get('status')}" for stage in stages)
        raise HfkitError(f"nothing was logged in {folder} yet ({states}): there is nothing to report on")
    order = [*STAGES, "merge"]
    stages.sort(key=lambda stage: (order.index(stage.kind) if stage.kind in order else len(order), stage.folder.name))
    give_names(stages)
    return Gathered(
        folder,
        stages,
        summary=read_json_mapping(folder / "summary.json") or {},
        arenas=read_results(folder, stages, "arena.json"),
        evaluations=read_results(folder, stages, "evaluation.json"),
    )


def run_and_ancestors(folder: Path) -> list[Path]:
    """The folder of a run, and those of the runs that it was made from, as far as they are still there."""
    family, waiting = {}, [folder.resolve()]
    while waiting:
        place = waiting.pop()
        record = read_record(place)
        if place in family or record is None:
            continue
        family[place] = None
        settings = record.get("config", {})
        parents = [parent["path"] for parent in record.get("lineage", [])]
        parents += [settings[key] for key in ("tokenizer_name_or_path",) if settings.get(key)]
        waiting += [Path(path).resolve() for path in parents if Path(path).is_dir()]
    return [*family]


def give_names(stages: list[ReportedRun]) -> None:
    """Names stages for a reader; where there are several of a kind, with their folders."""
    kinds = [stage.kind for stage in stages]
    for stage in stages:
        stage.name = title_of(stage.kind, stage.kind)
        if kinds.count(stage.kind) > 1:
            stage.name += f" ({stage.folder.name})"


def read_results(folder: Path, stages: list[ReportedRun], name: str) -> list[dict]:
    """The JSON files of a name in the folder, in the folders in it, and in those of its runs."""
    places = {folder.resolve(): None}
    places |= {place.resolve(): None for place in sorted(folder.iterdir()) if place.is_dir()}
    places |= {stage.folder.resolve(): None for stage in stages}
    contents = [read_json_mapping(place / name) for place in places]
    return [content for content in contents if content]


def samples_of(gathered: Gathered) -> list[dict]:
    """Replies side by side, each a `prompt` and `replies` by model: an arena's, else those that the runs left."""
    for arena in gathered.arenas:
        if arena.get("samples"):
            return [{"prompt": prompt_text(one["prompt"]), "replies": one["replies"]} for one in arena["samples"]]
    summary = gathered.summary
    if summary.get("prompts_shown"):
        models = summary["models"]
        return [
            {"prompt": prompt, "replies": {name: model["samples"][place] for name, model in models.items()}}
            for place, prompt in enumerate(summary["prompts_shown"])
        ]
    for stage in gathered.of("ppo"):
        rows = read_json_lines(stage.folder / "samples.jsonl")
        if rows:
            return [
                {"prompt": row["prompt"], "replies": {"before PPO": row["before"], "after PPO": row["after"]}}
                for row in rows
            ]
    return []


def prompt_text(prompt: str | list[dict]) -> str:
    """A prompt as text; of a conversation, who says what."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def read_json_lines(path: Path) -> list[dict]:
    """The rows of a file of JSON lines; [] where there is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def judge_of(arena: dict) -> str:
    """Who judged, in words."""
    judge = arena.get("judge", {})
    name = str(judge.get("name") or judge.get("kind") or "an unnamed judge")
    return Path(name).name if Path(name).is_absolute() else name


def watched_scores(stage: ReportedRun) -> list[str]:
    """The keys in a PPO run's metrics of scores with the weight 0: they are looked at, and not trained on."""
    settings = stage.record.get("config", {})
    parts = ["model"] * bool(settings.get("reward_model_path")) + settings.get("reward_functions", [])
    weights = settings.get("reward_weights") or [1.0] * len(parts)
    keys = [f"objective/score_{part}" for part, weight in zip(parts, weights, strict=True) if weight == 0]
    return [key for key in keys if any(key in row for row in stage.metrics)]
