"""python benchmarks/overhead.py [--pairs 5] [--steps 400]

What hfkit's stages cost over the bare trainers that they wrap: each stage against a script of Transformers and TRL
that does the same with the same settings (reads and tokenizes the rows, trains on each once, saves), in turns in one
process, nothing kept from one run to the next. Writes
benchmarks/records/overhead.json: seconds of each run, and per stage the median of the ratios of the pairs.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from hfkit.core.console import quiet_libraries

quiet_libraries()

import torch
from datasets import disable_caching, disable_progress_bars, load_dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    set_seed,
)
from trl import RewardTrainer, SFTTrainer, pack_dataset

import hfkit
from hfkit.core.files import write_json
from hfkit.quickstart.world import write_world
from hfkit.records.environment import environment
from hfkit.stages.pretrain import load_or_create_model
from hfkit.training.arguments import trainer_arguments

MODEL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
BATCH = {"pretrain": 16, "sft": 16, "reward": 8}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}


def rows(entry: hfkit.DatasetEntry):
    return load_dataset("json", data_files=entry.path, split=entry.split)


def bare_pretrain(config) -> None:
    """Transformers' Trainer on packed documents."""
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer_name_or_path)

    def tokens(batch):
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in tokenizer(batch["text"]).input_ids]}

    documents = rows(config.datasets[0]).map(tokens, batched=True, remove_columns="text")
    packed = pack_dataset(documents, config.block_size, "wrapped", {"batch_size": 100_000})
    packed = packed.filter(lambda row: len(row["input_ids"]) == config.block_size)

    def collate(batch):
        ids = torch.tensor([row["input_ids"] for row in batch])
        return {"input_ids": ids, "labels": ids}

    trainer = Trainer(load_or_create_model(config, tokenizer), trainer_arguments(config), collate, packed)
    finish(trainer, tokenizer, config)


def bare_sft(config) -> None:
    """TRL's SFTTrainer with LoRA, its own tokenization and its own loss mask."""
    tokenizer = AutoTokenizer.from_pretrained(config.model_name_or_path)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(config.model_name_or_path, dtype=torch.float32),
        trainer_arguments(config, assistant_only_loss=True),
        train_dataset=rows(config.datasets[0]).select_columns("messages"),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )
    finish(trainer, tokenizer, config)


def bare_reward(config) -> None:
    """TRL's RewardTrainer with LoRA, its own tokenization."""
    tokenizer = AutoTokenizer.from_pretrained(config.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        config.model_name_or_path, num_labels=1, dtype=torch.float32
    )
    pairs = rows(config.datasets[0])
    pairs = pairs.map(lambda row: {key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")})
    trainer = RewardTrainer(
        get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, modules_to_save=["score"], **LORA)),
        trainer_arguments(config),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    finish(trainer, tokenizer, config)


def finish(trainer: Trainer, tokenizer, config) -> None:
    """Trains and saves, without a line of hfkit's."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(config.output_dir)
    tokenizer.save_pretrained(config.output_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "overhead.json")
    asked = parser.parse_args()
    disable_progress_bars()
    disable_caching()  # each run tokenizes again
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), asked.pairs, asked.steps)
    asked.output.parent.mkdir(exist_ok=True)
    write_json(asked.output, record)
    print(json.dumps({name: stage["median_ratio"] for name, stage in record["stages"].items()}, indent=2))


def measure(root: Path, pairs: int, steps: int) -> dict:
    """Times each stage and its bare counterpart in turns; which of a pair goes first alternates."""
    world = root / "world"
    write_world(world)
    # as many rows as the steps take; a document fills less than half a row
    sizes = {"documents": steps * BATCH["pretrain"] * 5 // 2, "instructions": steps * BATCH["sft"]}
    sizes["preferences"] = steps * BATCH["reward"]
    entry = {
        name: [hfkit.DatasetEntry(path=str(world / f"{name}.jsonl"), split=f"train[:{size}]")]
        for name, size in sizes.items()
    }
    tokenizer = hfkit.train_tokenizer(
        hfkit.TokenizerConfig(output_dir=str(root / "tokenizer"), datasets=entry["documents"], vocab_size=1024)
    )
    loop = {"max_steps": steps, "logging_steps": 10, "save_strategy": "no"}
    adapter = {"use_peft": True, "lora_r": LORA["r"], "lora_alpha": LORA["lora_alpha"]}
    base = root / "base"

    def pretrain(folder: Path, **more) -> hfkit.PretrainConfig:
        return hfkit.PretrainConfig(
            output_dir=str(folder),
            tokenizer_name_or_path=str(tokenizer),
            datasets=entry["documents"],
            model_config=MODEL,
            block_size=128,
            per_device_train_batch_size=BATCH["pretrain"],
            **{**loop, **more},
        )

    def sft(folder: Path) -> hfkit.SFTConfig:
        return hfkit.SFTConfig(
            output_dir=str(folder),
            model_name_or_path=str(base),
            datasets=entry["instructions"],
            max_length=192,
            per_device_train_batch_size=BATCH["sft"],
            **loop,
            **adapter,
        )

    def reward(folder: Path) -> hfkit.RewardConfig:
        return hfkit.RewardConfig(
            output_dir=str(folder),
            model_name_or_path=str(base),
            datasets=entry["preferences"],
            max_length=192,
            per_device_train_batch_size=BATCH["reward"],
            **loop,
            **adapter,
        )

    hfkit.pretrain(pretrain(base, max_steps=20))  # also warms the caches of both sides
    stages = {
        "pretrain": (pretrain, hfkit.pretrain, bare_pretrain),
        "sft": (sft, hfkit.sft, bare_sft),
        "reward": (reward, hfkit.reward, bare_reward),
    }
    results = {}
    for name, (config_of, ours, bare) in stages.items():
        seconds = {"hfkit": [], "bare": []}
        for pair in range(pairs):
            for kind in ("hfkit", "bare") if pair % 2 else ("bare", "hfkit"):
                config = config_of(root / f"{name}-{kind}-{pair}")
                started = time.perf_counter()
                if kind == "hfkit":
                    ours(config)
                else:
                    set_seed(config.seed)
                    bare(config)
                seconds[kind].append(round(time.perf_counter() - started, 3))
        ratios = [own / other for own, other in zip(seconds["hfkit"], seconds["bare"], strict=True)]
        results[name] = {"seconds": seconds, "ratios": ratios, "median_ratio": statistics.median(ratios)}
        print(f"{name}: {results[name]['median_ratio']:.3f}x", flush=True)
    return {"benchmark": "overhead", "pairs": pairs, "steps": steps, "environment": environment(), "stages": results}


if __name__ == "__main__":
    main()
