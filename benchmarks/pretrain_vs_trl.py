"""python benchmarks/pretrain_vs_trl.py --model DIR_OR_HUB_ID --data TEXTS.jsonl.gz --name 135m [--pairs 5] [--packing]

hfkit's pretraining compared with Transformers' Trainer, all weights trained, on documents packed into rows of
`--max_length`; with `--packing`, documents of a row do not attend to each other.
"""

import by_turns
from transformers import Trainer

import hfkit
from hfkit.data.forms import TEXT
from hfkit.data.packing import pack_documents
from hfkit.data.splits import load_splits
from hfkit.models.loading import load_trainable
from hfkit.models.packed_attention import separating_collator
from hfkit.stages.pretrain import PretrainTrainer, collate_packed
from hfkit.training.arguments import max_tokens, trainer_arguments


def config(asked, settings: dict) -> hfkit.PretrainConfig:
    packing = "documents" if asked.packing else "concatenate"
    return hfkit.PretrainConfig(**settings, block_size=asked.max_length, packing=packing)


def encode(config, tokenizer):
    train, test, stats = load_splits(config, TEXT)
    return tuple(
        pack_documents(rows, tokenizer, stats[name], config)[0] for name, rows in (("train", train), ("test", test))
    )


def trainer(is_bare: bool, config, model, tokenizer, train, test):
    options = {} if is_bare else {"max_tokens": max_tokens(config, config.block_size), "tokens_per_byte": 1.0}
    return (Trainer if is_bare else PretrainTrainer)(
        model=model,
        args=trainer_arguments(config, remove_unused_columns=False),
        train_dataset=train,
        eval_dataset=test,
        data_collator=separating_collator(tokenizer) if config.packing == "documents" else collate_packed,
        processing_class=tokenizer,
        **options,
    )


def lengths(row: dict) -> list[int]:
    return row["seq_lengths"] if "seq_lengths" in row else [len(row["input_ids"])]


if __name__ == "__main__":
    by_turns.main(by_turns.Comparison("pretrain_vs_trl", Trainer, config, encode, load_trainable, trainer, lengths))
