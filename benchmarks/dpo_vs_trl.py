"""python benchmarks/dpo_vs_trl.py --model DIR_OR_HUB_ID --data PAIRS.jsonl.gz --name 135m [--pairs 5]

hfkit's DPO compared with TRL's DPOTrainer, with LoRA, on pairs of a chosen and a rejected response. TRL's trainer keeps
the reference as a second adapter of the policy, hfkit's as a second model on the same base.
"""

import by_turns
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

import hfkit
from hfkit.core.compat_trl import EncodedRows
from hfkit.data.comparisons import COMPARISONS, encode_comparisons
from hfkit.data.splits import load_splits
from hfkit.models.loading import load_trainable
from hfkit.rlhf.shared_base import copy_sharing_frozen
from hfkit.training.arguments import keep_trainable_dtype, max_tokens, trainer_arguments
from hfkit.training.dpo_trainer import MicroBatchedDPOTrainer, PairCollator


class BareDPOTrainer(EncodedRows, DPOTrainer):
    """TRL's trainer on rows that are tokenized already."""


def config(asked, settings: dict) -> hfkit.DPOConfig:
    return hfkit.DPOConfig(**settings, **by_turns.LORA, max_length=asked.max_length)


def encode(config, tokenizer):
    train, test, stats = load_splits(config, COMPARISONS)
    return tuple(
        encode_comparisons(rows, tokenizer, stats[name], config) for name, rows in (("train", train), ("test", test))
    )


def as_trl_has_them(row: dict) -> dict:
    starts = [spans[0] for spans in row["spans"]]
    chosen, rejected = (row[name][start:] for name, start in zip(("chosen_ids", "rejected_ids"), starts, strict=True))
    return {"prompt_ids": row["chosen_ids"][: starts[0]], "chosen_ids": chosen, "rejected_ids": rejected}


def trainer(is_bare: bool, config, model, tokenizer, train, test):
    common = {"model": model, "processing_class": tokenizer}
    common["args"] = trainer_arguments(config, max_length=None, remove_unused_columns=False)
    with keep_trainable_dtype(model):
        if is_bare:
            rows = {"train_dataset": train.map(as_trl_has_them), "eval_dataset": test.map(as_trl_has_them)}
            return BareDPOTrainer(data_collator=DataCollatorForPreference(tokenizer.pad_token_id), **rows, **common)
        return MicroBatchedDPOTrainer(
            ref_model=copy_sharing_frozen(model).requires_grad_(False).eval(),
            train_dataset=train,
            eval_dataset=test,
            data_collator=PairCollator(tokenizer),
            max_tokens=max_tokens(config, config.max_length, sequences=2),
            **common,
        )


def lengths(row: dict) -> list[int]:
    return [len(row["chosen_ids"]), len(row["rejected_ids"])]


if __name__ == "__main__":
    by_turns.main(by_turns.Comparison("dpo_vs_trl", DPOTrainer, config, encode, load_trainable, trainer, lengths))
