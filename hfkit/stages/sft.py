"""hfkit sft configs/quickstart/sft.yaml

Supervised fine-tuning with TRL's SFTTrainer on prompt and response, multi-turn messages, or plain text; LoRA or full.
The loss covers the assistant's tokens, including the end-of-text token that closes each turn.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import set_seed

from hfkit.config.stages import SFTConfig
from hfkit.core.console import say
from hfkit.core.device import prepare_device
from hfkit.data.forms import INSTRUCTIONS, encode_instructions
from hfkit.data.packing import pack_conversations
from hfkit.data.splits import load_splits, report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.models.adapters import record_base
from hfkit.models.end_token import warn_of_end_token
from hfkit.models.loading import cached_config, load_trainable, without_expert_dropout
from hfkit.models.packed_attention import packed_attention, require_separation, separating_collator
from hfkit.models.saving import save_model
from hfkit.models.sft_loss import loss_arguments, router_settings
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import (
    held_out_metrics,
    keep_trainable_dtype,
    loading_in_shards,
    max_tokens,
    set_callbacks,
    train,
    trainer_arguments,
)
from hfkit.training.callbacks import BeforeFirstStep
from hfkit.training.memory.plan_run import plan_run
from hfkit.training.sft_trainer import MicroBatchedSFTTrainer
from hfkit.training.sharding import CollectiveSave


@push_when_done
def main(config: SFTConfig) -> Path:
    """Train the model, or a LoRA adapter on it, and return the run's folder."""
    set_seed(config.seed)
    prepare_device(config)
    config = without_expert_dropout(config)
    # Data
    tokenizer = load_stage_tokenizer(config)
    train_rows, test_rows, stats = load_splits(config, INSTRUCTIONS)
    train_rows = encode_instructions(train_rows, tokenizer, stats["train"], config)
    if test_rows is not None:
        test_rows = encode_instructions(test_rows, tokenizer, stats["test"], config)
    run = open_run("sft", config, stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, stats)
        if config.packing:
            rows = len(train_rows)
            train_rows = pack_conversations(train_rows, config)
            say(f"train: {rows:,} rows packed into {len(train_rows):,} of at most {config.max_length} tokens")
        # Model
        config = plan_run(run)
        attention = config.attn_implementation
        if config.packing:
            attention = packed_attention(config, cached_config(config.model_name_or_path, config.model_revision))
        with loading_in_shards(config):
            model = load_trainable(replace(config, attn_implementation=attention))
        warn_of_end_token(model, tokenizer, config)
        run.note(**record_base(model))
        router = router_settings(model)
        # Trainer
        with keep_trainable_dtype(model):
            trainer = MicroBatchedSFTTrainer(
                model=model,
                args=trainer_arguments(
                    config,
                    dataset_kwargs={"skip_prepare_dataset": True},  # the rows are tokenized already
                    packing=False,  # done above; the collator separates the conversations
                    include_num_input_tokens_seen="non_padding",
                    eval_on_start=test_rows is not None and config.extra.get("eval_on_start", True),
                    **loss_arguments(model, config),
                ),
                train_dataset=train_rows,
                eval_dataset=test_rows,
                data_collator=separating_collator(tokenizer) if config.packing else None,
                processing_class=tokenizer,
                max_tokens=max_tokens(config, config.max_length),
            )
        if config.packing:
            trainer.add_callback(BeforeFirstStep(partial(require_separation, trainer)))
        save = CollectiveSave(trainer, partial(save_model, trainer.model, tokenizer))
        set_callbacks(trainer, run, save)
        facts = train(trainer, run)
        metrics = {"train_loss": facts["train_loss"], **held_out_metrics(trainer)}
        # Save
        model.config.get_text_config().update(router)
        run.publish(save, metrics, **facts)
    return run.folder
