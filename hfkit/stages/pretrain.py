"""hfkit pretrain configs/quickstart/pretrain.yaml

Causal language modeling with Transformers' Trainer, of a new model from `model_config` or of a checkpoint. Documents
are packed into rows of `block_size` tokens, with an end-of-text token between them.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from hfkit.config.stages import PretrainConfig
from hfkit.core.console import say
from hfkit.core.device import device, prepare_device
from hfkit.core.launch import shards_with_fsdp
from hfkit.data.forms import TEXT
from hfkit.data.packing import pack_documents
from hfkit.data.splits import load_splits, report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.metrics.formulas import bits_per_byte, perplexity
from hfkit.models.adapters import record_base
from hfkit.models.loading import cached_config, load_trainable, without_expert_dropout
from hfkit.models.model_config import new_config
from hfkit.models.packed_attention import packed_attention, require_separation, separating_collator
from hfkit.models.saving import save_model
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.models.zero import make_in_shards, parameter_count
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import (
    held_out_metrics,
    loading_in_shards,
    max_tokens,
    set_callbacks,
    train,
    trainer_arguments,
)
from hfkit.training.callbacks import BeforeFirstStep, Samples
from hfkit.training.chunked_loss import ChunkedLoss
from hfkit.training.memory.plan_run import plan_run
from hfkit.training.micro_batching import MicroBatching
from hfkit.training.sharding import CollectiveSave


@push_when_done
def main(config: PretrainConfig) -> Path:
    """Train the model and return the run's folder."""
    set_seed(config.seed)
    prepare_device(config)
    config = without_expert_dropout(config)
    # Data
    tokenizer = load_stage_tokenizer(config)
    train_rows, test_rows, stats = load_splits(config, TEXT)
    train_rows, _ = pack_documents(train_rows, tokenizer, stats["train"], config)
    tokens_per_byte = None
    if test_rows is not None:
        test_rows, tokens_per_byte = pack_documents(test_rows, tokenizer, stats["test"], config)
    run = open_run("pretrain", config, stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, stats)
        say(f"pretrain: {len(train_rows):,} rows of {config.block_size} tokens")
        # Model
        config = plan_run(run)
        with loading_in_shards(config):
            model = load_or_create_model(config, tokenizer)
        run.note(**record_base(model))
        say(f"pretrain: {parameter_count(model):,} parameters")
        # Trainer
        trainer = PretrainTrainer(
            model=model,
            args=trainer_arguments(
                config,
                remove_unused_columns=False,  # the collator needs `seq_lengths` to separate documents
                include_num_input_tokens_seen="all",
            ),
            train_dataset=train_rows,
            eval_dataset=test_rows,
            data_collator=separating_collator(tokenizer) if config.packing == "documents" else collate_packed,
            processing_class=tokenizer,
            tokens_per_byte=tokens_per_byte,
            max_tokens=max_tokens(config, config.block_size),
        )
        if config.packing == "documents":
            trainer.add_callback(BeforeFirstStep(partial(require_separation, trainer)))
        save = CollectiveSave(trainer, partial(save_model, trainer.model, tokenizer))
        set_callbacks(trainer, run, save, Samples(tokenizer, config.sample_prompts, config.sample_length))
        facts = train(trainer, run)
        # Save
        run.publish(save, {"train_loss": facts["train_loss"], **held_out_metrics(trainer)}, **facts)
    return run.folder


class PretrainTrainer(MicroBatching, ChunkedLoss):
    """Logs perplexity and bits per byte with the held-out loss; bits per byte are comparable across tokenizers.

    Args:
        tokens_per_byte: tokens per UTF-8 byte of the held-out text; None without held-out rows.
    """

    def __init__(self, *args, tokens_per_byte: float | None, **kwargs):
        super().__init__(*args, **kwargs)
        self.tokens_per_byte = tokens_per_byte

    def log(self, logs, *args, **kwargs):
        if "eval_loss" in logs:
            logs["eval_perplexity"] = perplexity([logs["eval_loss"]], [1])
            logs["eval_bits_per_byte"] = bits_per_byte([logs["eval_loss"] * self.tokens_per_byte], [1])
        super().log(logs, *args, **kwargs)


def collate_packed(rows: list[dict]) -> dict:
    """Return a batch of packed rows, which need no padding: `input_ids` and `labels`, each (B, T).

    Labels are the row's own if it has them, as rows that only pad an evaluation, else its ids.
    """
    ids, labels = ([row.get(name, row["input_ids"]) for row in rows] for name in ("input_ids", "labels"))
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def load_or_create_model(config: PretrainConfig, tokenizer):
    """Return the checkpoint to continue, or a new model of `config.model_config` with the tokenizer's vocabulary."""
    attention, separates = config.attn_implementation, config.packing == "documents"
    if config.model_name_or_path:
        if separates:
            attention = packed_attention(config, cached_config(config.model_name_or_path, config.model_revision))
        return load_trainable(replace(config, attn_implementation=attention))
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model_config = new_config({"vocab_size": len(tokenizer), **config.model_config, **tokens})
    attention = packed_attention(config, model_config) if separates else attention
    options = {"attn_implementation": attention} if attention else {}
    make = partial(AutoModelForCausalLM.from_config, model_config, trust_remote_code=False, **options)
    if is_deepspeed_zero3_enabled():
        return make_in_shards(make)
    return make().to(torch.device("cpu") if shards_with_fsdp() else device())  # FSDP2 moves it layer by layer
