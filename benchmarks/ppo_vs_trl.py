"""python benchmarks/ppo_vs_trl.py --model DIR_OR_HUB_ID --name 135m [--pairs 5] [--updates 3] [--seeds 3]

hfkit's PPO loop against that of trl 1.12's PPOTrainer (trl 1.13 and later have none): the same four models on one base
(LoRA), the same prompts (16 to 48 tokens), seeds and settings; each run in a separate process, alternately. Responses
may take 128 tokens; a bias on the end-of-text logit makes the mean about 36 for both. On a GPU an update has 64
episodes in bf16, and the first one, in which engines compile, is timed by itself.

- `--pairs`: episodes a second, alternately; the seconds of each phase of hfkit's.
- `--engines static continuous`: hfkit's loop with other engines of rollouts.
- `--memory`: peak resident memory, where the allocator gives back at once what is freed; trl's loop also with a
  separate model for each role, as its script loads them.
- `ACCUMULATION=2` in the environment: updates of half as many episodes.
- `PROMPT=512 RESPONSE=512 MEAN=512` in the environment: other lengths; with a mean as long as the limit, no response
  ends before it. `--pairs 0 --engines static` then measures hfkit alone.
- `--seeds`: curves of the reward over `--curve` updates, at `--learning_rate`.

Writes what was measured into records/ppo_vs_trl_NAME.json as it comes, and leaves what it has of the rest.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hfkit.core.console import quiet_libraries

quiet_libraries()

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, GenerationConfig, TrainerCallback, set_seed
from trl.experimental.ppo import PPOConfig as TrlPPOConfig
from trl.experimental.ppo import PPOTrainer as TrlPPOTrainer

import hfkit
from hfkit.core.device import prepare_device
from hfkit.core.files import read_json_mapping, write_json
from hfkit.models.generation import generate_replies
from hfkit.models.loading import load_policy
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.environment import environment, peak_memory_bytes, reset_peak_memory
from hfkit.rlhf import PPOArguments, PPOTrainer
from hfkit.rlhf.roles import Roles, load_roles
from hfkit.training.memory.device import free_gpu
from hfkit.training.memory.plan_run import decide_on

LOOPS = ("hfkit", "trl")
APART = "trl, models apart"
STILL = 1e-6  # learning rate of what is timed: the length of responses does not change
# glibc otherwise keeps what was freed, and the peak would be of what was ever needed at any place.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_MMAP_MAX_": "1000000"}
LIMIT, LONGEST_PROMPT = int(os.environ.get("RESPONSE", 128)), int(os.environ.get("PROMPT", 48))
MEAN = int(os.environ.get("MEAN", 36))
WORDS = "the little bird saw a big red ball near old tree and ran home with her friend because it was".split()
LIKED = ("happy", "smiled", "love")
ON_GPU = torch.cuda.is_available()
WARM = int(ON_GPU)  # updates before those that are timed: kernels are chosen, and engines compile
BATCH = {
    "per_device_train_batch_size": 16 if ON_GPU else 4,
    "gradient_accumulation_steps": int(os.environ.get("ACCUMULATION", 4)),
    "num_mini_batches": 1,
}
PPO = {**BATCH, "response_length": LIMIT, "num_ppo_epochs": 4, "temperature": 1.0, "kl_coef": 0.05, "seed": 0}
PPO["max_grad_norm"] = 1e9  # trl's loop never clips
SIZE = BATCH["per_device_train_batch_size"] * BATCH["gradient_accumulation_steps"]


def prompts(tokenizer, count: int) -> list[list[int]]:
    """Plain words, a third of `LONGEST_PROMPT` tokens up to all of them."""
    text, shortest = " ".join(WORDS * (LONGEST_PROMPT // 4)), LONGEST_PROMPT // 3
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [ids[index % 7 :][: shortest + (index * 5) % (LONGEST_PROMPT - shortest + 1)] for index in range(count)]


def prepare(root: Path, asked: argparse.Namespace) -> None:
    """An SFT adapter of a step, and a reward adapter that likes some words."""
    texts = [" ".join(WORDS[index % 5 :][:9]) for index in range(64)]
    turns = [{"prompt": text, "response": text} for text in texts]
    pairs = [{"prompt": t, "chosen": f"{LIKED[i % 3]} {LIKED[i % 2]}", "rejected": t} for i, t in enumerate(texts)]
    for name, rows in (("turns", turns), ("pairs", pairs)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"max_length": 128, "use_peft": True, "pad_token": asked.pad_token, "save_strategy": "no"}
    common["load_in_4bit"] = asked.load_in_4bit
    hfkit.sft(
        hfkit.SFTConfig(
            output_dir=str(root / "sft"),
            model_name_or_path=asked.model,
            datasets=[hfkit.DatasetEntry(path=str(root / "turns.jsonl"))],
            max_steps=1,
            learning_rate=1e-6,
            **common,
        )
    )
    hfkit.reward(
        hfkit.RewardConfig(
            output_dir=str(root / "reward"),
            model_name_or_path=str(root / "sft"),
            datasets=[hfkit.DatasetEntry(path=str(root / "pairs.jsonl"))],
            max_steps=4 if ON_GPU else 16,
            learning_rate=1e-3,
            **common,
        )
    )
    write_json(root / "bias.json", {"bias": bias_for(root)})


def with_bias(model, bias: float, eos: int) -> None:
    """Adds a bias to the end-of-text logit of a causal LM's head."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = torch.nn.Linear(*causal.lm_head.weight.shape[::-1], device=causal.device, dtype=causal.dtype)
    head.weight, head.bias.data = causal.lm_head.weight, torch.zeros_like(head.bias)
    head.bias.data[eos] = bias
    causal.lm_head = head.requires_grad_(False)


@torch.no_grad()
def bias_for(root: Path) -> float:
    """The bias with which responses are `MEAN` tokens long on average.

    Responses that cannot end show how likely the end was at each place; with those odds times e^bias, a response
    reaches place t with the probability that it ended at none before, and these sum to its mean length.
    """
    policy, tokenizer = load_policy(str(root / "sft"))
    asked = prompts(tokenizer, 64)
    with_bias(policy, -1e4, tokenizer.eos_token_id)
    replies = generate_replies(policy, tokenizer, asked, LIMIT, temperature=1.0)
    with_bias(policy, 0.0, tokenizer.eos_token_id)
    odds = []
    for prompt, reply in zip(asked, replies, strict=True):
        logits = policy(torch.tensor([prompt + reply], device=policy.device)).logits[0, len(prompt) - 1 : -1].double()
        odds.append(logits.log_softmax(-1)[:, tokenizer.eos_token_id].exp().logit())
    odds = torch.stack(odds).cpu()
    low, high = -20.0, 60.0
    for _ in range(40):
        bias = (low + high) / 2
        goes_on = (-odds - bias).sigmoid().cumprod(-1)  # (replies, LIMIT): it has not ended up to here
        length = float(1 + goes_on[:, :-1].sum(-1).mean())
        low, high = (bias, high) if length > MEAN else (low, bias)
    return bias


class Curve(TrainerCallback):
    """Reward and time of each update."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append({**logs, "at": time.perf_counter()})


def run(loop: str, asked: argparse.Namespace, updates: int, seed: int) -> dict:
    """One run of one loop, on models that are loaded the same way for both."""
    set_seed(seed)
    root, (loop, _, engine) = asked.root, loop.partition(" with ")
    config = hfkit.PPOConfig(
        output_dir=str(root / "out"),
        model_name_or_path=str(root / "sft"),
        reward_model_path=str(root / "reward"),
        datasets=[],
        use_peft=True,
        load_in_4bit=asked.load_in_4bit,
        bf16=ON_GPU,
        gradient_checkpointing=False,
        response_length=LIMIT,
        max_prompt_length=LONGEST_PROMPT,
        **BATCH,
    )
    prepare_device(config)
    tokens = decide_on(free_gpu(), "ppo", config)[1] if ON_GPU else None  # as `hfkit ppo` does
    tokenizer = load_tokenizer(str(root / "sft"))
    tokenizer.padding_side = "left"
    roles = load_roles(config)
    for model in (roles.policy, roles.reference):
        with_bias(model, json.loads((root / "bias.json").read_text())["bias"], tokenizer.eos_token_id)
    if loop == APART:
        roles = Roles(*(copy.deepcopy(role) for role in (roles.policy, roles.reference, roles.reward, roles.value)))
    episodes = (WARM + updates) * SIZE
    rows = [{"input_ids": ids, "prompt": ""} for ids in prompts(tokenizer, episodes)]
    settings = {**PPO, "seed": seed, "learning_rate": asked.learning_rate, "total_episodes": episodes}
    settings |= {"output_dir": str(root / "out"), "num_sample_generations": 0, "save_strategy": "no", "bf16": ON_GPU}
    settings |= {"report_to": "none", "gradient_checkpointing": False, "logging_steps": 1, "disable_tqdm": True}
    settings["use_cpu"] = not ON_GPU
    curve = Curve()
    common = {
        "processing_class": tokenizer,
        "model": roles.policy,
        "ref_model": roles.reference,
        "reward_model": roles.reward,
        "value_model": roles.value,
        "callbacks": [curve],
    }
    data = Dataset.from_list(rows)
    if loop == "hfkit":
        extra = {"rollout_engine": engine or "generate", "max_tokens_per_micro_batch": tokens}
        extra |= {} if updates < 20 else {"max_kl": 1e9}
        trainer = PPOTrainer(args=PPOArguments(**settings, **extra), train_dataset=data, eval_dataset=data, **common)
    else:
        ids = data.remove_columns("prompt")
        for model in (roles.reward, roles.value):
            model.config.pad_token_id = tokenizer.pad_token_id
        for model in (roles.policy, roles.policy.get_base_model()):
            model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
        trainer = TrlPPOTrainer(
            args=TrlPPOConfig(**settings, stop_token="eos"),
            train_dataset=ids,
            eval_dataset=ids,
            data_collator=DataCollatorWithPadding(copy.deepcopy(tokenizer)),
            **common,
        )
    reset_peak_memory()
    started = time.perf_counter()
    trainer.train()
    ended = time.perf_counter()
    logs = [row for row in curve.rows if "objective/scores" in row]
    begun = logs[WARM - 1]["at"] if WARM else started
    seconds, logs = ended - begun, logs[WARM:]
    return {
        "episodes_per_second": updates * SIZE / seconds,
        "warm_seconds": begun - started,
        "peak_bytes": peak_memory_bytes(),
        "scores": [row["objective/scores"] for row in logs],
        "kl": [row["objective/kl"] for row in logs],
        "reply_length": statistics.mean(row.get("val/reply_length", 0.0) for row in logs),
        "phases": {name: sum(row.get(f"time/{name}", 0) for row in logs) for name in ("rollout", "scoring", "update")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--pad_token")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--updates", type=int, default=3, help="updates of a run that is timed")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--curve", type=int, default=40, help="updates of a learning curve")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    parser.add_argument("--one", help="LOOP:UPDATES:SEED, on what --root holds")
    parser.add_argument("--root", type=Path, help="folder of the adapters; made if there are none")
    parser.add_argument("--engines", nargs="+", default=[], choices=("static", "continuous"), help="measured once each")
    parser.add_argument("--load_in_4bit", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        loop, updates, seed = asked.one.split(":")
        print(json.dumps(run(loop, asked, int(updates), int(seed))))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = asked.root or Path(folder)
        if not (root / "bias.json").is_file():
            prepare(root, asked)
        for found in measure(asked, root):
            write_record(asked, found)
    ratios = {key: value.get("hfkit_over_trl", value.get("hfkit_minus_trl")) for key, value in found.items()}
    print(json.dumps(ratios, indent=2))


def write_record(asked: argparse.Namespace, found: dict) -> None:
    path = asked.records / f"ppo_vs_trl_{asked.name}.json"
    about = {
        "benchmark": "ppo_vs_trl",
        "model": Path(asked.model).name,
        "settings": {**PPO, "longest_prompt": LONGEST_PROMPT, "mean_length": MEAN},
        "environment": environment(),
    }
    write_json(path, {**(read_json_mapping(path) or {}), **about, **found})


def measure(asked: argparse.Namespace, root: Path) -> Iterator[dict]:
    """Yields what is known of `speed`, `engines`, `memory`, `learning at RATE`: ratios and the runs behind them."""

    def measured(loop: str, updates: int, seed: int, rate: float = STILL, **variables) -> dict:
        one = ["--one", f"{loop}:{updates}:{seed}", "--root", str(root), "--learning_rate", str(rate)]
        command = [sys.executable, __file__, "--model", asked.model, "--name", asked.name, *one]
        command += ["--load_in_4bit"] * asked.load_in_4bit
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
        if ran.returncode:
            sys.exit(ran.stderr)
        result = json.loads(ran.stdout.splitlines()[-1])
        print(f"{loop}, seed {seed}: {result['episodes_per_second']:.2f} episodes/s", flush=True)
        return result

    found = {}
    if asked.pairs:
        runs = {loop: [] for loop in LOOPS}
        for pair in range(asked.pairs):
            for loop in LOOPS if pair % 2 else LOOPS[::-1]:
                runs[loop].append(measured(loop, asked.updates, pair))
        speeds = {loop: [one["episodes_per_second"] for one in of] for loop, of in runs.items()}
        ratios = [ours / theirs for ours, theirs in zip(speeds["hfkit"], speeds["trl"], strict=True)]
        median = statistics.median(ratios)
        found["speed"] = {"hfkit_over_trl": median, "ratios": ratios, "updates": asked.updates, "runs": runs}
        yield found
    for loop in (f"hfkit with {engine}" for engine in asked.engines):
        found.setdefault("engines", {"runs": {}})["runs"][loop] = measured(loop, asked.updates, 0)
        yield found
    if asked.memory:
        peaks = {loop: measured(loop, 1, 0, **GIVES_BACK)["peak_bytes"] for loop in (*LOOPS, APART)}
        ratios = {loop: peaks["hfkit"] / peaks[loop] for loop in (*LOOPS[1:], APART)}
        found["memory"] = {"hfkit_over_trl": ratios, "peak_bytes": peaks}
        yield found
    if asked.seeds:
        curves = {
            loop: [measured(loop, asked.curve, seed, asked.learning_rate) for seed in range(asked.seeds)]
            for loop in LOOPS
        }
        last = {loop: [statistics.mean(one["scores"][-10:]) for one in of] for loop, of in curves.items()}
        gained = [ours - theirs for ours, theirs in zip(last["hfkit"], last["trl"], strict=True)]
        found[f"learning at {asked.learning_rate:g}"] = {
            "hfkit_minus_trl": gained,
            "mean_reward_of_the_last_ten_updates": last,
            "mean_over_seeds": {loop: statistics.mean(of) for loop, of in last.items()},
            "threads": torch.get_num_threads(),
            "runs": curves,
        }
        yield found


if __name__ == "__main__":
    main()
