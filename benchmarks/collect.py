"""python benchmarks/collect.py NAME RUN_DIR [RUN_DIR ...]

Gathers what the records of finished pipelines say into benchmarks/records/NAME.json: of each stage the settings, rows,
figures, seconds, tokens per second and peak memory, the first sample responses, and the quickstart's summary; and what
`hfkit evaluate` and `hfkit arena` wrote into folders of it. No paths.
"""

import json
import sys
from pathlib import Path

from hfkit.config.registry import STAGES
from hfkit.core.files import write_json
from hfkit.records.record import read_record

KEPT = ("status", "seed", "steps", "tokens", "episodes", "train_seconds", "wall_seconds", "tokens_per_second")
KEPT += ("peak_memory_bytes", "metrics", "stopped")
# Of an evaluation: how responses were made, and which rows they were.
REPLIES = ("seed", "temperature", "response_length", "max_prompts", "max_prompt_length", "dtype", "resamples")
SOURCE = ("split", "rows", "sha256", "of")
PATHS = ("datasets", "eval_datasets", "model_name_or_path", "reward_model_path", "tokenizer_name_or_path")


def stage_of(folder: Path) -> dict:
    """One stage, from its record and its samples."""
    record = read_record(folder)
    settings = {
        key: value for key, value in record["config"].items() if key not in PATHS and value not in (None, [], {})
    }
    rows = {
        name: {key: split[key] for key in ("rows", "kept", "cut", "dropped", "tokens")}
        for name, split in record["data"].items()
    }
    stage = {"settings": settings, "data": rows, **{key: record[key] for key in KEPT if key in record}}
    losses = [json.loads(line) for line in metrics.open()] if (metrics := folder / "metrics.jsonl").is_file() else []
    keys = (
        "step",
        "loss",
        "num_input_tokens_seen",
        "eval_loss",
        "eval_bits_per_byte",
        "objective/scores",
        "objective/kl",
    )
    stage["curve"] = [{key: row[key] for key in keys if key in row} for row in losses]
    if (samples := folder / "samples.jsonl").is_file():
        stage["samples"] = [json.loads(line) for line in samples.read_text().splitlines()[:8]]
    return stage


def results_of(folder: Path) -> dict[str, dict]:
    """The evaluations and arenas of a folder of runs, by their paths in it."""
    results = {}
    for file in sorted([*folder.glob("*/evaluation.json"), *folder.glob("*/arena.json")]):
        result = json.loads(file.read_text(encoding="utf-8"))
        for split in result["data"].values():
            split["sources"] = [{key: source[key] for key in SOURCE if key in source} for source in split["sources"]]
        for model in result.get("models", []):
            del model["path"]
        if "judge" in result:
            result["judge"]["name"] = Path(result["judge"]["name"]).name
        result["settings"] = {key: result["settings"][key] for key in REPLIES if key in result["settings"]}
        unwanted = ("model", "against")
        results[f"{file.parent.name}/{file.stem}"] = {k: v for k, v in result.items() if k not in unwanted}
    return results


def run_of(folder: Path) -> dict:
    """One pipeline: its stages in their order, where it ran, its summary, evaluations and arenas."""
    stages = {name: stage_of(folder / name) for name in STAGES if read_record(folder / name)}
    results = results_of(folder)
    environments = [read_record(folder / name)["environment"] for name in stages]
    environments += [result.pop("environment") for result in results.values()]
    run = {"environment": environments[0], "stages": stages, **results}
    run["wall_seconds"] = round(sum(stage["wall_seconds"] for stage in stages.values()), 1)
    if (summary := folder / "summary.json").is_file():
        run["summary"] = json.loads(summary.read_text())
    return run


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    output = Path(__file__).parent / "records" / f"{sys.argv[1]}.json"
    write_json(output, {"runs": [run_of(Path(folder)) for folder in sys.argv[2:]]})
    print(output)
