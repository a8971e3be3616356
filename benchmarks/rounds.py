"""python benchmarks/rounds.py [--seeds 0 1 2] [--root runs/rounds_benchmark]

Does a second round of RLHF help? On the quickstart's world: SFT, one round and two rounds of
configs/quickstart/rounds.yaml, in which the gold rule ranks sampled responses, by the gold score on held-out questions.
And self-consistency: exact answers of the majority of n responses of the SFT model at temperature 1.

Writes benchmarks/records/rounds.json and docs/images/rounds.png. Runs that are done already are skipped. A seed whose
root holds `tokenizer`, `pretrain` and `sft` starts from them.
"""

import argparse
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from hfkit.core.console import quiet_libraries

quiet_libraries()

import yaml

from hfkit.core.files import read_json_mapping, write_json, write_json_lines
from hfkit.quickstart.facts import BY_VALUE
from hfkit.quickstart.main import WORLD_SEED, world_flags
from hfkit.quickstart.summary import BATCH, REPLY_TOKENS, world_rows
from hfkit.quickstart.world import write_world
from hfkit.records.environment import environment
from hfkit.records.record import read_record
from hfkit.training.plots import draw_png

ROOT = Path(__file__).parents[1]
CONFIGS, RECORD, PLOT = ROOT / "configs" / "quickstart", ROOT / "benchmarks" / "records", ROOT / "docs" / "images"
BEFORE = ("tokenizer", "pretrain", "sft")
MOST_VOTES = 16
"""Responses to each question for self-consistency."""


def hfkit(*words: str | Path) -> None:
    """Run a command in a separate process."""
    subprocess.run([sys.executable, "-m", "hfkit.cli", *map(str, words)], check=True)


def train(root: Path, seed: int, flags: list[str]) -> None:
    """Train the SFT model of a seed, then the rounds."""
    if not (root / "world").is_dir():
        write_world(root / "world", WORLD_SEED)
    if (read_record(root / "sft") or {}).get("status") != "done":
        pipeline = root / "pipeline.yaml"
        stages = {stage: str(CONFIGS / f"{stage}.yaml") for stage in BEFORE}
        pipeline.write_text(yaml.safe_dump({"output_dir": str(root), "stages": stages}))
        hfkit("run", pipeline, *world_flags(stages, root / "world"), "--seed", str(seed))
    questions = str(root / "world" / "questions_test.jsonl")
    settings = yaml.safe_load((CONFIGS / "rounds.yaml").read_text())["rounds"]
    own = {
        "extends": str(CONFIGS / "rounds.yaml"),
        "stages": {
            "reward": {"model_name_or_path": str(root / "sft")},
            "ppo": {
                "model_name_or_path": str(root / "sft"),
                "datasets": [{"path": str(root / "world" / "prompts.jsonl")}],
            },
        },
        "rounds": {"evaluate": {**settings["evaluate"], "prompts": [{"path": questions}]}},
    }
    (root / "rounds.yaml").write_text(yaml.safe_dump(own))
    hfkit("run", root / "rounds.yaml", "--output_dir", root / "rounds", "--seed", str(seed), *flags)


def measure(root: Path, seed: int) -> dict:
    """Return the results of a seed's rounds, with the seconds of each stage, and the votes of its SFT model."""
    keys = ("name", "score", "score_low", "score_high", "kl", "win_rate", "reward_accuracy", "counts")
    found = []
    for one in read_json_mapping(root / "rounds" / "rounds.json")["rounds"]:
        stages = {kind: one[kind] for kind in ("reward_model", "policy") if kind in one}
        seconds = {kind: read_record(path)["wall_seconds"] for kind, path in stages.items()}
        found.append({key: one[key] for key in keys if key in one} | {"seconds": seconds})
    return {"seed": seed, "policies": found, "votes": votes(root)}


def votes(root: Path) -> list[dict]:
    """Return the accuracy of the majority answer of n responses of the SFT model at temperature 1, by `hfkit sample`.

    The answer is the value that a response names last.
    """
    rows = [{"prompt": row["prompt"], "response": row["answer"]} for row in world_rows(root, "questions_test")]
    write_json_lines(root / "questions.jsonl", rows)
    values = f"({'|'.join(map(re.escape, BY_VALUE))})"
    options = ["--response_length", REPLY_TOKENS, "--per_device_eval_batch_size", BATCH, "--seed", 0]
    options += ["-k", MOST_VOTES, "--temperature", 1, f"--vote=\\b{values}\\b", "--output_dir", root / "votes"]
    hfkit("sample", root / "sft", "--prompts", root / "questions.jsonl", *options)
    return read_json_mapping(root / "votes" / "sample.json")["votes"]


def draw(axes, record: dict) -> None:
    """Draw the gold score over the rounds of each seed."""
    for run in record["runs"]:
        rows = run["policies"]
        spans = [[abs(row["score"] - row[end]) for row in rows] for end in ("score_low", "score_high")]
        points = [index + 0.05 * run["seed"] for index in range(len(rows))]
        look = {"fmt": "o-", "capsize": 3, "label": f"seed {run['seed']}"}
        axes.errorbar(points, [row["score"] for row in rows], yerr=spans, **look)
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows])
    axes.set(title="Gold score after each round", ylabel="gold score, with 95% interval")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=Path("runs/rounds_benchmark"))
    asked, flags = parser.parse_known_args()
    runs = []
    for seed in asked.seeds:
        root = asked.root / f"seed-{seed}"
        root.mkdir(parents=True, exist_ok=True)
        train(root, seed, flags)
        runs.append(measure(root, seed))
    settings = yaml.safe_load((CONFIGS / "rounds.yaml").read_text())
    settings = {"rounds": settings["rounds"], "stages": settings["stages"]}
    record = {"benchmark": "rounds", "environment": environment(), "settings": settings, "runs": runs}
    write_json(RECORD / "rounds.json", record)
    print(draw_png(PLOT / "rounds.png", 1, partial(draw, record=record), dark=True))


if __name__ == "__main__":
    main()
