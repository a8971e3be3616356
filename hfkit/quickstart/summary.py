"""Measures each stage of the quickstart on held-out data of the small world, and prints the summary."""

import json
from pathlib import Path

from datasets import Dataset
from rich.table import Table

from hfkit.config.evaluation import ArenaConfig
from hfkit.config.fields import DatasetEntry
from hfkit.config.registry import STAGES
from hfkit.core.files import write_record
from hfkit.core.tables import interval_text, make_console
from hfkit.data.chat_template import encode_prompt, encode_text
from hfkit.evaluation.arena import arena
from hfkit.evaluation.diversity import reply_diversity
from hfkit.evaluation.replies import REPLIES, Sampling, Subject, load_or_sample
from hfkit.evaluation.results_file import ResultsFile
from hfkit.evaluation.text_likelihoods import text_likelihoods
from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.metrics.formulas import bits_per_byte, kl_per_reply
from hfkit.metrics.preference import metrics_of_margins
from hfkit.models.generation import likelihoods
from hfkit.models.reward_model import RewardModel, load_reward
from hfkit.quickstart.gold import GoldScorer, answer_is_right
from hfkit.quickstart.plots import plot_summary
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

STAGE_OF_MODEL = {"base": "pretrain", "SFT": "sft", "PPO": "ppo"}
REPLY_TOKENS, BATCH = 64, 100
SHOWN_QUESTIONS = 3


def world_rows(root: Path, name: str) -> list[dict]:
    """Return the rows of one of the world's files."""
    lines = (root / "world" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summarize(root: Path) -> dict:
    """Evaluate base, SFT and PPO, and the reward model; write `summary.json` and `summary.png`."""
    questions = world_rows(root, "questions_test")
    documents = [row["text"] for row in world_rows(root, "documents_test")]
    reward = load_reward(str(root / "reward"))
    subjects = {name: Subject(name, str(root / stage)) for name, stage in STAGE_OF_MODEL.items()}
    sft, kept = subjects["SFT"], ResultsFile(root / "arena" / REPLIES)
    ppo = read_record(root / "ppo")["config"]
    temperature = ppo["temperature"]
    summary: dict = {"questions": len(questions), "temperature": temperature, "models": {}}
    for name, subject in subjects.items():
        summary["models"][name] = {
            "bits_per_byte": bits_per_byte_of(subject, documents),
            **metrics_of_replies(subject, sft, reward, questions, temperature, kept),
        }
    summary["prompts_shown"] = [row["prompt"][-1]["content"] for row in questions[:SHOWN_QUESTIONS]]
    summary["reward_model"] = reward_accuracy(reward, world_rows(root, "preferences_test"))
    summary["max_kl"] = ppo["max_kl"]
    records = {stage: read_record(root / stage) for stage in STAGES}
    summary["seconds"] = {stage: record["wall_seconds"] for stage, record in records.items() if record}
    write_record(root / "summary.json", summary)
    plot_summary(root, summary, {stage: read_metrics(root / stage) for stage in ("pretrain", "ppo")})
    return summary


def metrics_of_replies(
    subject: Subject, sft: Subject, reward: RewardModel, questions: list[dict], temperature: float, kept: ResultsFile
) -> dict:
    """Return the metrics of a model's responses to the questions.

    Exact answers are those of greedy decoding; gold score, reward, KL and entropy are of responses sampled at the
    temperature. KL is to the SFT model, in nats per response; entropy in nats per token.
    """
    gold, tokenizer = GoldScorer(), sft.tokenizer
    prompts = [encode_prompt(tokenizer, row["prompt"]) for row in questions]
    greedy = load_or_sample(subject, prompts, Sampling(REPLY_TOKENS, 0.0), kept, BATCH)
    sampled = load_or_sample(subject, prompts, Sampling(REPLY_TOKENS, temperature), kept, BATCH)
    ids, texts = [reply.ids for reply in sampled], [reply.text for reply in sampled]
    scores = [gold(row["prompt"], text) for row, text in zip(questions, texts, strict=True)]
    logprobs = [reply.logprob for reply in sampled]
    under_sft = logprobs
    if subject is not sft:
        of_sft = likelihoods(sft.model, tokenizer, prompts, ids, temperature)
        under_sft = [float(reply.logprobs.sum()) for reply in of_sft]
    rewards = reward.score_ids([prompt + reply for prompt, reply in zip(prompts, ids, strict=True)])
    answers = zip(questions, greedy, strict=True)
    right = [answer_is_right(reply.text, row["answer"], row["name"]) for row, reply in answers]
    return {
        "exact_answer": sum(right) / len(right),
        "gold": sum(scores) / len(scores),
        "gold_interval": bootstrap_interval(scores),
        "reward": float(rewards.mean()),
        "kl_to_sft": kl_per_reply(logprobs, under_sft),
        "entropy": reply_diversity(sampled)["entropy"],
        "reply_tokens": sum(map(len, ids)) / len(ids),
        "samples": texts[:SHOWN_QUESTIONS],
    }


def run_arena(root: Path) -> dict:
    """Run the arena of base, SFT and PPO on the summary's responses, judged by the gold scorer; see `arena.arena`."""
    config = ArenaConfig(
        models=[f"{name}={root / stage}" for name, stage in STAGE_OF_MODEL.items()],
        prompts=[DatasetEntry(path=str(root / "world" / "questions_test.jsonl"))],
        max_prompts=len(world_rows(root, "questions_test")),
        judge="function",
        reward_function="hfkit.quickstart.gold:gold",
        temperature=read_record(root / "ppo")["config"]["temperature"],
        response_length=REPLY_TOKENS,
        per_device_eval_batch_size=BATCH,
        seed=0,
        output_dir=str(root / "arena"),
    )
    return arena(config)


def bits_per_byte_of(subject: Subject, texts: list[str]) -> float:
    """Return the bits per byte of documents."""
    ids = [encode_text(subject.tokenizer, text) for text in texts]
    results = text_likelihoods(subject.model, subject.tokenizer, Dataset.from_dict({"input_ids": ids, "labels": ids}))
    return bits_per_byte(results.nats, results.sizes)


def reward_accuracy(reward: RewardModel, pairs: list[dict]) -> dict[str, float]:
    """Return the accuracy on held-out pairs, by the given noisy labels and by those of the gold scorer."""
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (reward(prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    margins = (chosen - rejected).double().numpy()
    noisy = metrics_of_margins(margins)
    clean = metrics_of_margins(margins * [1 if pair["clean"] else -1 for pair in pairs])
    return {
        "accuracy_noisy": noisy["accuracy"],
        "accuracy_clean": clean["accuracy"],
        "calibration_error_noisy": noisy["calibration_error"],
    }


def print_summary(summary: dict, root: Path) -> None:
    """Print the table of the models, a few responses, and the accuracy of the reward model."""
    rows = {
        "held-out bits per byte": lambda m: f"{m['bits_per_byte']:.3f}",
        "exact answers": lambda m: f"{m['exact_answer']:.2f}",
        "gold score (95% interval)": lambda m: interval_text(m["gold"], *m["gold_interval"]),
        "reward model's score": lambda m: f"{m['reward']:.2f}",
        "KL to SFT (nats/response)": lambda m: f"{m['kl_to_sft']:.2f}",
        "entropy (nats/token)": lambda m: f"{m['entropy']:.3f}",
        "tokens per response": lambda m: f"{m['reply_tokens']:.1f}",
    }
    console = make_console(width=110)
    table = Table("", *summary["models"], title=f"{summary['questions']} held-out questions")
    for name, text in rows.items():
        table.add_row(name, *(text(model) for model in summary["models"].values()))
    console.print(table)
    for index, prompt in enumerate(summary["prompts_shown"]):
        console.print(prompt, style="bold")
        for name, model in summary["models"].items():
            console.print(f"  {name:>4}: {model['samples'][index]}", highlight=False)
    accuracy = summary["reward_model"]
    console.print(
        f"reward model's accuracy on held-out pairs: {accuracy['accuracy_noisy']:.3f} by the given labels (10% wrong), "
        f"{accuracy['accuracy_clean']:.3f} by the correct ones",
        highlight=False,
    )
    console.print(f"in {root}: summary.json, summary.png, a folder for each stage, and arena/", highlight=False)
