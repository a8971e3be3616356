"""python benchmarks/which_method.py [--seeds 3] [--root runs/which_method]

Which method aligns an SFT model best? PPO, GRPO, RLOO, DPO and best of n on the quickstart's world, each from the same
SFT model and the same noisy pairs: directly, or through the reward model that learned from them. Writes
benchmarks/records/which_method.json (gold score with interval, KL to SFT, wall and CPU seconds, memory) and
docs/images/which_method.png.

Runs that are done already are skipped; each runs in a separate process, one after another.
"""

import argparse
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from hfkit.core.console import quiet_libraries

quiet_libraries()

import yaml

from hfkit.core.files import read_json_mapping, write_json
from hfkit.data.chat_template import encode_prompt
from hfkit.evaluation.replies import Sampling, Subject, load_or_sample
from hfkit.evaluation.results_file import ResultsFile
from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.models.reward_model import RewardModel, load_reward
from hfkit.quickstart.gold import GoldScorer
from hfkit.quickstart.main import WORLD_SEED, world_flags
from hfkit.quickstart.summary import BATCH, REPLY_TOKENS, metrics_of_replies, world_rows
from hfkit.quickstart.world import write_world
from hfkit.records.environment import environment
from hfkit.records.record import read_record
from hfkit.training.plots import draw_png

ROOT = Path(__file__).parents[1]
CONFIGS, RECORD, PLOT = ROOT / "configs" / "quickstart", ROOT / "benchmarks" / "records", ROOT / "docs" / "images"
BEFORE = ("tokenizer", "pretrain", "sft", "reward")
METHODS = {"PPO": "ppo", "GRPO": "grpo", "RLOO": "rloo", "DPO": "dpo"}
MOST = 16
"""The most responses that best of n chooses from."""
MARKERS = {"PPO": "C0o", "DPO": "C1s", "GRPO": "C2^", "RLOO": "C3D"}
"""Color and shape of each method."""


def hfkit(*words: str | Path) -> float:
    """Runs a command in a separate process, so that its memory is measured alone; its CPU seconds."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "hfkit.cli", *map(str, words)], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def train(root: Path, seed: int) -> None:
    """Trains what all methods start from, then each method."""
    write_world(root / "world", WORLD_SEED)
    pipeline = root / "pipeline.yaml"
    stages = {stage: str(CONFIGS / f"{stage}.yaml") for stage in BEFORE}
    pipeline.write_text(yaml.safe_dump({"output_dir": str(root), "stages": stages}))
    hfkit("run", pipeline, *world_flags(stages, root / "world"), "--seed", str(seed))
    for stage in METHODS.values():
        own = [word.replace(f"--{stage}.", "--") for word in world_flags([stage], root / "world")]
        models = ["--model_name_or_path", root / "sft"]
        models += ["--reward_model_path", root / "reward"] * ("--reward_functions" in own)
        if (read_record(root / stage) or {}).get("status") == "done":
            continue
        seconds = hfkit(stage, CONFIGS / f"{stage}.yaml", *models, *own, "--output_dir", root / stage, "--seed", seed)
        write_json(root / f"{stage}.json", {"cpu_seconds": round(seconds, 1)})


def measure(root: Path, seed: int) -> dict:
    """The figures of each model of one seed: of its replies, and what it took to train."""
    questions, reward, kept = (
        world_rows(root, "questions_test"),
        load_reward(str(root / "reward")),
        ResultsFile(root / "replies.jsonl"),
    )
    temperature = read_record(root / "ppo")["config"]["temperature"]
    sft = Subject("SFT", str(root / "sft"))
    models = {}
    for name, stage in {"SFT": "sft", **METHODS}.items():
        subject = sft if name == "SFT" else Subject(name, str(root / stage))
        models[name] = metrics_of_replies(subject, sft, reward, questions, temperature, kept)
        record = read_record(root / stage)
        models[name] |= {"seconds": record["wall_seconds"], "peak_memory_bytes": record["peak_memory_bytes"]}
        models[name] |= read_json_mapping(root / f"{stage}.json") or {}
    return {
        "seed": seed,
        "reward_model_seconds": read_record(root / "reward")["wall_seconds"],
        "models": models,
        "best_of_n": best_of_n(sft, reward, questions, temperature, kept),
    }


def best_of_n(
    sft: Subject, reward: RewardModel, questions: list[dict], temperature: float, kept: ResultsFile
) -> list[dict]:
    """The gold score of the reply that the reward model likes best of n of the SFT model.

    The KL is at most log n - (n - 1) / n nats (Beirami et al. 2024, arXiv 2401.01879).
    """
    gold, prompts = GoldScorer(), [encode_prompt(sft.tokenizer, row["prompt"]) for row in questions]
    rewards, golds = [], []
    for draw in range(MOST):
        replies = load_or_sample(sft, prompts, Sampling(REPLY_TOKENS, temperature, draw), kept, BATCH)
        rewards.append(
            reward.score_ids([prompt + one.ids for prompt, one in zip(prompts, replies, strict=True)]).tolist()
        )
        golds.append([gold(row["prompt"], one.text) for row, one in zip(questions, replies, strict=True)])
    found = []
    for n in (2**power for power in range(1, MOST.bit_length())):
        best = [max(range(n), key=lambda draw: rewards[draw][index]) for index in range(len(questions))]
        scores = [golds[draw][index] for index, draw in enumerate(best)]
        interval = bootstrap_interval(scores)
        found.append(
            {
                "n": n,
                "gold": sum(scores) / len(scores),
                "gold_interval": interval,
                "kl_to_sft": math.log(n) - (n - 1) / n,
            }
        )
    return found


def draw(axes, record: dict) -> None:
    """Draw gold score against KL: each method and seed with its interval, and best of n as a curve."""
    for run in record["runs"]:
        first = run is record["runs"][0]
        for name, model in run["models"].items():
            spans = [[abs(model["gold"] - end)] for end in model["gold_interval"]]
            look = {"fmt": MARKERS.get(name, "C4X"), "capsize": 3, "label": name if first else None}
            axes.errorbar(model["kl_to_sft"], model["gold"], yerr=spans, **look)
        points = [(0.0, run["models"]["SFT"]["gold"]), *((one["kl_to_sft"], one["gold"]) for one in run["best_of_n"])]
        label = f"best of 2 to {MOST}" if first else None
        axes.plot(*zip(*points, strict=True), color="C4", linewidth=1, marker=".", zorder=0, label=label)
    axes.set(title="Gold score and KL", xlabel="KL to SFT (nats per response)", ylabel="gold score, with 95% interval")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, default=Path("runs/which_method"))
    asked = parser.parse_args()
    runs = []
    for seed in range(asked.seeds):
        root = asked.root / f"seed-{seed}"
        root.mkdir(parents=True, exist_ok=True)
        train(root, seed)
        runs.append(measure(root, seed))
    settings = {stage: yaml.safe_load((CONFIGS / f"{stage}.yaml").read_text()) for stage in METHODS.values()}
    for own in settings.values():
        own.pop("datasets")
    record = {"benchmark": "which_method", "environment": environment(), "settings": settings, "runs": runs}
    write_json(RECORD / "which_method.json", record)
    print(draw_png(PLOT / "which_method.png", 1, partial(draw, record=record), dark=True))


if __name__ == "__main__":
    main()
