"""python benchmarks/sft_vs_trl.py --model DIR_OR_HUB_ID --data ROWS.jsonl.gz --name 135m [--pairs 5] [--packing]

hfkit's SFT compared with TRL's SFTTrainer, with LoRA: prompt and response, or messages.
"""

from dataclasses import replace

import by_turns
from trl import SFTTrainer

import hfkit
from hfkit.data.forms import INSTRUCTIONS, encode_instructions
from hfkit.data.packing import pack_conversations
from hfkit.data.splits import load_splits
from hfkit.models.loading import cached_config, load_trainable
from hfkit.models.packed_attention import packed_attention, separating_collator
from hfkit.models.sft_loss import loss_arguments
from hfkit.training.arguments import keep_trainable_dtype, max_tokens, trainer_arguments
from hfkit.training.sft_trainer import MicroBatchedSFTTrainer


def config(asked, settings: dict) -> hfkit.SFTConfig:
    return hfkit.SFTConfig(**settings, **by_turns.LORA, max_length=asked.max_length, packing=asked.packing)


def encode(config, tokenizer):
    train, test, stats = load_splits(config, INSTRUCTIONS)
    train, test = (
        encode_instructions(rows, tokenizer, stats[name], config) for name, rows in (("train", train), ("test", test))
    )
    return pack_conversations(train, config) if config.packing else train, test


def load(config):
    model_config = cached_config(config.model_name_or_path, config.model_revision)
    return load_trainable(
        replace(config, attn_implementation=packed_attention(config, model_config) if config.packing else None)
    )


def trainer(is_bare: bool, config, model, tokenizer, train, test):
    arguments = trainer_arguments(
        config, dataset_kwargs={"skip_prepare_dataset": True}, packing=False, **loss_arguments(model, config)
    )
    kind = SFTTrainer if is_bare else MicroBatchedSFTTrainer
    options = {} if is_bare else {"max_tokens": max_tokens(config, config.max_length)}
    with keep_trainable_dtype(model):
        return kind(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=test,
            data_collator=separating_collator(tokenizer) if config.packing else None,
            processing_class=tokenizer,
            **options,
        )


def lengths(row: dict) -> list[int]:
    return row["seq_lengths"] if "seq_lengths" in row else [len(row["input_ids"])]


if __name__ == "__main__":
    by_turns.main(by_turns.Comparison("sft_vs_trl", SFTTrainer, config, encode, load, trainer, lengths))
