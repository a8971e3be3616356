"""What each stage of the quickstart brought, measured on what training never saw."""

import json
import math
from pathlib import Path

import torch

from hfkit.callbacks import read_metrics
from hfkit.console import say
from hfkit.evaluation.bootstrap import bootstrap_interval
from hfkit.evaluation.generation import generate_replies, likelihoods, reply_kl
from hfkit.evaluation.preference import metrics_of_margins
from hfkit.models import load_policy
from hfkit.quickstart.world import GoldScorer, answer_is_right
from hfkit.record import read_record, write_json
from hfkit.rendering import encode_prompt
from hfkit.scoring import load_reward

MODELS = {"base": "pretrain", "SFT": "sft", "PPO": "ppo"}
REPLY_TOKENS, BATCH = 64, 100
SHOWN = 3


def rows_of(root: Path, name: str) -> list[dict]:
    """The rows of one of the world's files."""
    lines = (root / "world" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summarize(root: Path) -> dict:
    """Measures base, SFT and PPO, and the reward model; writes `summary.json` and `summary.png`.

    Exact answers are those of greedy decoding; gold score, reward, KL and entropy are of replies sampled at PPO's
    temperature. KL is to the SFT model, in nats per reply; entropy in nats per token.
    """
    from hfkit.plots import plot_summary

    questions = rows_of(root, "questions_test")
    documents = [row["text"] for row in rows_of(root, "documents_test")]
    gold, reward = GoldScorer(), load_reward(str(root / "reward"))
    temperature = read_record(root / "ppo")["config"]["temperature"]
    sft, tokenizer = load_policy(str(root / "sft"))
    prompts = [encode_prompt(tokenizer, row["prompt"]) for row in questions]
    summary = {"questions": len(questions), "temperature": temperature, "models": {}}
    for name, stage in MODELS.items():
        say(f"measuring {name}")
        model = sft if stage == "sft" else load_policy(str(root / stage))[0]
        greedy = decode(tokenizer, generate_replies(model, tokenizer, prompts, REPLY_TOKENS, batch_size=BATCH))
        sampled = generate_replies(model, tokenizer, prompts, REPLY_TOKENS, temperature, batch_size=BATCH)
        texts = decode(tokenizer, sampled)
        scores = [gold(row["prompt"], text) for row, text in zip(questions, texts, strict=True)]
        said = likelihoods(model, tokenizer, prompts, sampled, temperature)
        under_sft = said if stage == "sft" else likelihoods(sft, tokenizer, prompts, sampled, temperature)
        rewards = reward.score_ids([prompt + reply for prompt, reply in zip(prompts, sampled, strict=True)])
        right = [answer_is_right(text, row["answer"], row["name"]) for row, text in zip(questions, greedy, strict=True)]
        summary["models"][name] = {
            "bits_per_byte": bits_per_byte(model, tokenizer, documents),
            "exact_answer": sum(right) / len(right),
            "gold": sum(scores) / len(scores),
            "gold_interval": bootstrap_interval(scores),
            "reward": float(rewards.mean()),
            "kl_to_sft": reply_kl(said, under_sft),
            "entropy": float(torch.cat([one.entropy for one in said]).mean()),
            "reply_tokens": sum(map(len, sampled)) / len(sampled),
            "samples": texts[:SHOWN],
        }
    summary["prompts_shown"] = [row["prompt"][-1]["content"] for row in questions[:SHOWN]]
    summary["reward_model"] = reward_accuracy(reward, rows_of(root, "preferences_test"))
    summary["max_kl"] = read_record(root / "ppo")["config"]["max_kl"]
    summary["seconds"] = {
        stage: read_record(root / stage)["wall_seconds"] for stage in ("tokenizer", "pretrain", "sft", "reward", "ppo")
    }
    write_json(root / "summary.json", summary)
    plot_summary(root, summary, {stage: read_metrics(root / stage) for stage in ("pretrain", "ppo")})
    return summary


def decode(tokenizer, replies: list[list[int]]) -> list[str]:
    """Replies as text, without special tokens."""
    return [text.strip() for text in tokenizer.batch_decode(replies, skip_special_tokens=True)]


def bits_per_byte(model, tokenizer, texts: list[str]) -> float:
    """-log2 likelihood of documents, each closed by end-of-text, over their UTF-8 bytes."""
    start = [[tokenizer.eos_token_id]] * len(texts)
    ids = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in texts]
    nats = -sum(float(one.logprobs.sum()) for one in likelihoods(model, tokenizer, start, ids))
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def reward_accuracy(reward, pairs: list[dict]) -> dict[str, float]:
    """Accuracy on held-out pairs, against the noisy labels as given and against the gold scorer's."""
    prompts = [pair["prompt"] for pair in pairs]
    chosen = reward(prompts, [pair["chosen"] for pair in pairs])
    margins = (chosen - reward(prompts, [pair["rejected"] for pair in pairs])).double().numpy()
    clean = margins * [1 if pair["clean"] else -1 for pair in pairs]
    return {
        "accuracy_noisy": metrics_of_margins(margins)["accuracy"],
        "accuracy_clean": metrics_of_margins(clean)["accuracy"],
        "calibration_error_noisy": metrics_of_margins(margins)["calibration_error"],
    }


def show(summary: dict, root: Path) -> None:
    """The table at the end."""
    from rich.console import Console
    from rich.table import Table

    figures = {
        "held-out bits per byte": lambda m: f"{m['bits_per_byte']:.3f}",
        "exact answers": lambda m: f"{m['exact_answer']:.2f}",
        "gold score (95% interval)": lambda m: "{:.3f} ({:.3f} to {:.3f})".format(m["gold"], *m["gold_interval"]),
        "reward model's score": lambda m: f"{m['reward']:.2f}",
        "KL to SFT, nats per reply": lambda m: f"{m['kl_to_sft']:.2f}",
        "entropy, nats per token": lambda m: f"{m['entropy']:.3f}",
        "tokens per reply": lambda m: f"{m['reply_tokens']:.1f}",
    }
    console = Console(width=None if Console().is_terminal else 110)
    table = Table(title=f"{summary['questions']} held-out questions")
    for column in ("", *summary["models"]):
        table.add_column(column)
    for name, text in figures.items():
        table.add_row(name, *(text(model) for model in summary["models"].values()))
    console.print(table)
    for place, prompt in enumerate(summary["prompts_shown"]):
        console.print(f"[bold]{prompt}[/bold]")
        for name, model in summary["models"].items():
            console.print(f"  {name:>4}: {model['samples'][place]}", highlight=False, markup=False)
    accuracy = summary["reward_model"]
    console.print(
        f"reward model on held-out pairs: {accuracy['accuracy_noisy']:.3f} against the labels as given (10% wrong), "
        f"{accuracy['accuracy_clean']:.3f} against clean ones",
        highlight=False,
    )
    console.print(f"in {root}: summary.json, summary.png, and a folder for each stage", highlight=False)
