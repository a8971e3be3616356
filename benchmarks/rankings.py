"""python benchmarks/rankings.py runs/quickstart [more quickstart folders, one a seed] [--rankings 1200]

What rankings are worth to a reward model: four responses to a prompt, ranked by a judge who errs, from the quickstart's
world, all pairs of a prompt in one step; against the same pairs one by one, and against as many pairs that are each of
another ranking: the same SFT model and settings. A response of a ranking is read once for all of its pairs, so at the
    cost of one pass over the pairs there are three over the rankings; the last arm has one pass over more rankings
    instead, with as many responses to read. Rows in a step are those that did best on other held-out pairs, of 1, 2, 4,
    8 and 16 rankings and of 5, 11 and 22 pairs. Writes records/rankings.json, after each run: the accuracy on held-out
    pairs whose labels are right, tokens and seconds. What is in it is not run again.
"""

import argparse
import json
import random
import tempfile
from itertools import combinations, product
from pathlib import Path

from hfkit.core.console import quiet_libraries
from hfkit.stages.checks.stage import problems_of

quiet_libraries()

import hfkit
from hfkit.config.parsing import load_config
from hfkit.core.files import read_json_mapping, write_json
from hfkit.quickstart.world import TIE, WorldWriter
from hfkit.records.environment import environment
from hfkit.records.record import read_record

ERROR = 0.1  # standard deviation of a judge's score about the gold one: 9% of the labels are wrong
ARMS = {  # rows in a step, and passes
    "rankings": (8, 3),
    "the same pairs": (11, 1),
    "pairs of as many rankings": (11, 1),
    "rankings of as many replies as the pairs": (8, 1),
}
CONFIG = Path(__file__).parents[1] / "configs" / "quickstart" / "reward.yaml"
RECORD = Path(__file__).parent / "records" / "rankings.json"


def judged(rankings: list[dict], rng: random.Random) -> list[dict]:
    """Rankings with a judge's scores instead of the gold ones; scores closer than `TIE` tie."""
    return [
        {**row, "scores": [round(rng.gauss(score, ERROR) / TIE) * TIE for score in row["scores"]]} for row in rankings
    ]


def pairs_of(ranking: dict) -> list[dict]:
    """All pairs of a ranking but the ties."""
    scored = zip(ranking["replies"], ranking["scores"], strict=True)
    return [
        {"prompt": ranking["prompt"], "chosen": max(pair, key=score)[0], "rejected": min(pair, key=score)[0]}
        for pair in combinations(scored, 2)
        if pair[0][1] != pair[1][1]
    ]


def score(judged_reply: tuple[str, float]) -> float:
    return judged_reply[1]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(arm: str, seed: int, count: int) -> list[dict]:
    """The training rows of an arm: `count` rankings, or what is compared with them."""
    rng, writer = random.Random(seed), WorldWriter(0)
    gold = {}
    for name, wanted in (("few", count), ("many", 8 * count)):
        writer.rng.seed(f"rankings {name} {seed}")
        gold[name] = judged([writer.ranking(held=False) for _ in range(wanted)], rng)
    same = [pair for row in gold["few"] for pair in pairs_of(row)]
    if arm == "rankings":
        return gold["few"]
    if arm == "the same pairs":
        return same
    if arm == "rankings of as many replies as the pairs":  # two to a pair, four to a ranking
        return gold["many"][: len(same) // 2]
    return [rng.choice(pairs) for row in gold["many"] if (pairs := pairs_of(row))][: len(same)]


def measure(root: Path, arm: str, seed: int, count: int, folder: Path) -> dict:
    """Accuracy and seconds of an arm, on the SFT model of one quickstart."""
    rows, (in_a_step, passes) = rows_of(arm, seed, count), ARMS[arm]
    test = [json.loads(line) for line in (root / "world" / "preferences_test.jsonl").open()]
    config = load_config(
        hfkit.RewardConfig,
        CONFIG,
        problems_of,
        model_name_or_path=str(root / "sft"),
        datasets=[{"path": write(folder / "rows.jsonl", rows)}],
        eval_datasets=[{"path": write(folder / "test.jsonl", [row for row in test if row["clean"]])}],
        per_device_train_batch_size=in_a_step,
        num_train_epochs=passes,
        seed=seed,
        save_strategy="no",
        output_dir=str(folder / "reward"),
    )
    record = read_record(hfkit.reward(config))
    figures = {name: round(record["metrics"][f"eval_{name}"], 4) for name in ("accuracy", "log_loss")}
    return {**figures, "rows": len(rows), **{name: record[name] for name in ("steps", "tokens", "train_seconds")}}


def summary(seeds: dict) -> dict[str, float]:
    """Mean accuracy of each arm over the seeds that have it."""
    found = {arm: [figures[arm]["accuracy"] for figures in seeds.values() if arm in figures] for arm in ARMS}
    return {arm: round(sum(accuracies) / len(accuracies), 4) for arm, accuracies in found.items() if accuracies}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--rankings", type=int, default=1200)
    known = parser.parse_args()
    record = read_json_mapping(RECORD) or {}
    about = {"rankings": known.rankings, "rows_in_a_step_and_passes": {arm: list(of) for arm, of in ARMS.items()}}
    seeds = record.get("seeds", {}) if about.items() <= record.items() else {}
    for arm, (seed, root) in product(ARMS, enumerate(known.roots)):
        if arm in seeds.setdefault(str(seed), {}):
            continue
        with tempfile.TemporaryDirectory() as folder:
            seeds[str(seed)][arm] = measure(root, arm, seed, known.rankings, Path(folder))
        print(seed, arm, seeds[str(seed)][arm], flush=True)
        record = {"environment": environment(), **about, "mean_accuracy": summary(seeds)}
        write_json(RECORD, {**record, "seeds": seeds})
