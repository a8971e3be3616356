"""python benchmarks/reward_vs_trl.py --model DIR_OR_HUB_ID --data PAIRS.jsonl.gz --name 135m [--pairs 5]

hfkit's reward modeling compared with TRL's RewardTrainer, with LoRA, on pairs of a chosen and a rejected response.
"""

from functools import partial

import by_turns
from peft import TaskType
from trl import RewardTrainer

import hfkit
from hfkit.data.comparisons import COMPARISONS, encode_comparisons
from hfkit.data.splits import load_splits
from hfkit.models.loading import load_trainable
from hfkit.training.arguments import keep_trainable_dtype, max_tokens, trainer_arguments
from hfkit.training.comparison_batches import ComparisonCollator, classifier_width
from hfkit.training.comparison_trainer import ComparisonTrainer


def config(asked, settings: dict) -> hfkit.RewardConfig:
    return hfkit.RewardConfig(**settings, **by_turns.LORA, max_length=asked.max_length)


def encode(config, tokenizer):
    train, test, stats = load_splits(config, COMPARISONS)
    return tuple(
        encode_comparisons(rows, tokenizer, stats[name], config) for name, rows in (("train", train), ("test", test))
    )


def trainer(is_bare: bool, config, model, tokenizer, train, test):
    common = {"model": model, "train_dataset": train, "eval_dataset": test, "processing_class": tokenizer}
    with keep_trainable_dtype(model):
        if is_bare:
            return RewardTrainer(args=trainer_arguments(config), **common)
        return ComparisonTrainer(
            args=trainer_arguments(config, max_length=None, remove_unused_columns=False),
            data_collator=ComparisonCollator(tokenizer, width=classifier_width(model, train, test)),
            max_tokens=max_tokens(config, config.max_length, sequences=2),
            **common,
        )


def lengths(row: dict) -> list[int]:
    return [len(row["chosen_ids"]), len(row["rejected_ids"])]


if __name__ == "__main__":
    load = partial(load_trainable, task_type=TaskType.SEQ_CLS)
    by_turns.main(by_turns.Comparison("reward_vs_trl", RewardTrainer, config, encode, load, trainer, lengths))
