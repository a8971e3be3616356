"""python benchmarks/ppo_learning.py --model DIR_OR_HUB_ID [--seeds 3]

Does PPO learn, does its KL reach its target, and what does it forget? A small model of stories is rewarded for each
word of joy in a response, over a thousand responses, with each seed in three ways: `plain`; `target`, with `kl_coef`
    adapted to a KL; `ptx`, with a language modelling loss on stories in addition to PPO's. Writes
    benchmarks/records/ppo_learning.json: settings, rewards before and after, KL, the loss on held-out stories, and
    their curves. The figures in docs/ are drawn from it by benchmarks/ppo_learning_plots.py.

The stories are sampled from the model at temperature 1: to it they are what it was pretrained on. Their first sentences
are the prompts; those of the held-out stories are held out.
"""

import argparse
import json
import re
import statistics
import tempfile
from pathlib import Path

from hfkit.core.console import quiet_libraries

quiet_libraries()

import torch
from safetensors.torch import load_file

import hfkit
from hfkit.core.files import write_json
from hfkit.models.generation import generate_replies, likelihoods
from hfkit.records.environment import environment
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

JOY = re.compile(r"\b(happy|fun|smil\w+|love\w*|hug\w*)\b", re.IGNORECASE)
STORIES, HELD_OUT, LENGTH = 1024, 256, 160  # how many, of which held out, and tokens of each
PPO = {
    "reward_functions": [f"{Path(__file__).stem}:joy"],
    "use_peft": True,
    "response_length": 40,
    "temperature": 1.0,
    "total_episodes": 1000,
    "per_device_train_batch_size": 20,
    "per_device_eval_batch_size": 64,
    "learning_rate": 5e-4,
    "kl_coef": 0.1,
    "max_kl": 30.0,
    "save_steps": 10,
    "save_total_limit": None,
}
WAYS = {
    "plain": {},
    "target": {"kl_target": 8.0, "kl_horizon": 200, "kl_coef": 0.2},
    # texts are cut before the end that sampling gave them: none should teach where a story ends
    "ptx": {"ptx_coef": 1.0, "ptx_max_length": 128, "max_dropped": 1.0},
}
CURVE = {"episode": "episode", "reward": "objective/scores", "kl": "objective/kl", "kl_coef": "objective/kl_coef"}


def joy(prompts: list[str], replies: list[str]) -> list[float]:
    """The reward: how many words of joy a response has."""
    return [float(len(JOY.findall(reply))) for reply in replies]


def prepare(root: Path, model: str) -> list[list[int]]:
    """Writes prompts.jsonl, held_out.jsonl (more prompts) and stories.jsonl; returns the held-out stories' tokens."""
    policy, tokenizer = hfkit.load_policy(model)
    opening = [[tokenizer.bos_token_id]] * STORIES
    stories = generate_replies(policy, tokenizer, opening, LENGTH, 1.0, 0, 128, tokenizer.all_special_ids)
    texts = tokenizer.batch_decode(stories, skip_special_tokens=True)
    known, new = (list(dict.fromkeys(map(beginning, part))) for part in (texts[HELD_OUT:], texts[:HELD_OUT]))
    rows = {
        "prompts": [{"prompt": prompt} for prompt in known],
        "held_out": [{"prompt": prompt} for prompt in new if prompt not in known],
        "stories": [{"text": text} for text in texts[HELD_OUT:]],
    }
    for name, content in rows.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return stories[:HELD_OUT]


def beginning(story: str) -> str:
    """The first sentence, or what there is of it."""
    return story.partition(".")[0][:80] + "."


def story_loss(model, tokenizer, stories: list[list[int]]) -> float:
    """Cross entropy on stories, nats per token."""
    scored = likelihoods(model, tokenizer, [[tokenizer.bos_token_id]] * len(stories), stories, batch_size=64)
    return -float(torch.cat([one.logprobs for one in scored]).mean())


def config_of(root: Path, model: str, way: str, seed: int) -> hfkit.PPOConfig:
    """The stage's config of one run."""
    changes = WAYS[way] | ({"ptx_datasets": entry(root, "stories")} if way == "ptx" else {})
    return hfkit.PPOConfig(
        output_dir=str(root / f"{way}-{seed}"),
        model_name_or_path=model,
        datasets=entry(root, "prompts"),
        eval_datasets=entry(root, "held_out"),
        seed=seed,
        **PPO | changes,
    )


def entry(root: Path, name: str) -> list[hfkit.DatasetEntry]:
    return [hfkit.DatasetEntry(path=str(root / f"{name}.jsonl"))]


def run(config: hfkit.PPOConfig, stories: list[list[int]], loss_before: float) -> dict:
    """Trains; the figures of a run and its curves over episodes."""
    folder = hfkit.ppo(config)
    record = read_record(folder)
    rows = [row for row in read_metrics(folder) if "objective/kl" in row]
    curve = {name: [row[key] for row in rows] for name, key in CURVE.items()}
    kl = curve["kl"][-(len(rows) // 3) :]
    batch = record["episodes"] // record["steps"]
    losses = {step * batch: loss for step, loss in losses_of_checkpoints(folder, stories).items()}
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()[:4]]
    return {
        "seed": config.seed,
        "episodes": record["episodes"],
        "seconds": record["train_seconds"],
        "reward_ratio": record["metrics"]["eval_reward_ppo"] / record["metrics"]["eval_reward_sft"],
        "kl_of_last_third": {"mean": statistics.mean(kl), "std": statistics.stdev(kl), "max": max(kl)},
        "story_loss_ratio": losses[record["episodes"]] / loss_before,
        "metrics": record["metrics"],
        "stopped": record.get("stopped"),
        "first_and_last_tenth": {key: tenths([row[key] for row in rows]) for key in rows[0] if "/" in key},
        "curve": curve,
        "story_loss": {"episode": [0, *losses], "loss": [loss_before, *losses.values()]},
        "samples": samples,
    }


def losses_of_checkpoints(folder: Path, stories: list[list[int]]) -> dict[int, float]:
    """The loss on stories at each checkpoint, by its step."""
    policy, tokenizer = hfkit.load_policy(str(folder))
    losses = {}
    for step in sorted(int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*")):
        trained = load_file(folder / f"checkpoint-{step}" / "policy_model.safetensors")
        if policy.load_state_dict(trained, strict=False).unexpected_keys:
            raise KeyError(f"checkpoint-{step} is of another model")
        losses[step] = story_loss(policy, tokenizer, stories)
    return losses


def tenths(values: list[float]) -> list[float]:
    """Means of the first and of the last tenth of the updates."""
    tenth = max(len(values) // 10, 1)
    return [statistics.mean(values[:tenth]), statistics.mean(values[-tenth:])]


def summary(runs: dict[str, list[dict]]) -> dict[str, list[float]]:
    """The figures that decide, of each seed: what the rewards were multiplied by, the KL, what became of the losses."""
    return {
        "plain_reward_ratio": [one["reward_ratio"] for one in runs["plain"]],
        "plain_highest_kl": [one["metrics"]["kl_max"] for one in runs["plain"]],
        "target_kl_of_last_third": [one["kl_of_last_third"]["mean"] for one in runs["target"]],
        "plain_story_loss_ratio": [one["story_loss_ratio"] for one in runs["plain"]],
        "ptx_story_loss_ratio": [one["story_loss_ratio"] for one in runs["ptx"]],
        "ptx_reward_ratio": [one["reward_ratio"] for one in runs["ptx"]],
    }


def rounded(value):
    """Numbers to four significant digits, wherever they are: the rest is noise."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "ppo_learning.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stories = prepare(root, asked.model)
        before = story_loss(*hfkit.load_policy(asked.model), stories)
        runs = {
            way: [run(config_of(root, asked.model, way, seed), stories, before) for seed in range(asked.seeds)]
            for way in WAYS
        }
    record = {
        "benchmark": "ppo_learning",
        "model": Path(asked.model).name,
        "settings": {"ppo": PPO, "ways": WAYS, "reward": JOY.pattern},
        "environment": environment(),
        "story_loss_before": before,
        "summary": summary(runs),
        "runs": runs,
    }
    write_json(asked.output, rounded(record))
    print(json.dumps(rounded(record["summary"]), indent=2))


if __name__ == "__main__":
    main()
