"""hfkit pretrain --config configs/quickstart/pretrain.yaml

Causal language modelling with Transformers' Trainer, on documents packed into rows of `block_size` tokens with
end-of-text between them: a new model from `model_config`, or a checkpoint continued.
"""

from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, set_seed

from hfkit.config.stages import PretrainConfig
from hfkit.core.console import say
from hfkit.core.device import device, prepare_device
from hfkit.data.forms import TEXT
from hfkit.data.packing import pack_documents, require_separation, separating_collator
from hfkit.data.splits import load_splits, tell
from hfkit.hub.stage import then_push
from hfkit.metrics.formulas import bits_per_byte, perplexity
from hfkit.models.adapters import record_base
from hfkit.models.loading import load_tokenizer, load_trainable
from hfkit.models.saving import save_model
from hfkit.records.record import parent_of
from hfkit.training.arguments import held_out_metrics, own_callbacks, train, trainer_arguments
from hfkit.training.callbacks import Samples
from hfkit.training.run import Run


@then_push
def main(config: PretrainConfig) -> Path:
    """Trains the model and returns its folder."""
    set_seed(config.seed)
    prepare_device(config)
    # Data
    tokenizer = load_tokenizer(*config.tokenizer_place, config.pad_token, config.chat_template)
    train_rows, test_rows, account = load_splits(config, TEXT)
    train_rows, _ = pack_documents(train_rows, tokenizer, account["train"], config)
    tokens_per_byte = None
    if test_rows is not None:
        test_rows, tokens_per_byte = pack_documents(test_rows, tokenizer, account["test"], config)
    parents = [parent_of("base", config.model_name_or_path, config.model_revision)] if config.model_name_or_path else []
    run = Run("pretrain", config, {name: split.as_dict() for name, split in account.items()}, parents)
    if run.is_done:
        say(f"pretrain: already done in {run.folder}")
        return run.folder
    with run.training():
        tell(run, account)
        say(f"pretrain: {len(train_rows):,} rows of {config.block_size} tokens")
        # Model
        model = start_model(config, tokenizer)
        run.note(**record_base(model))
        say(f"pretrain: {model.num_parameters():,} parameters")

        # Trainer
        class PretrainTrainer(Trainer):
            """Adds what the held-out loss means: perplexity, and bits per byte, which no tokenizer can flatter."""

            def log(self, logs, *args, **kwargs):
                if "eval_loss" in logs:
                    logs["eval_perplexity"] = perplexity([logs["eval_loss"]], [1])
                    logs["eval_bits_per_byte"] = bits_per_byte([logs["eval_loss"] * tokens_per_byte], [1])
                super().log(logs, *args, **kwargs)

        def collate(rows: list[dict]) -> dict:
            ids = torch.tensor([row["input_ids"] for row in rows])  # (B, T), without padding
            return {"input_ids": ids, "labels": ids}

        trainer = PretrainTrainer(
            model=model,
            args=trainer_arguments(
                config,
                remove_unused_columns=False,  # `seq_lengths` is what keeps documents apart
                include_num_input_tokens_seen="all",
            ),
            train_dataset=train_rows,
            eval_dataset=test_rows,
            data_collator=separating_collator(tokenizer) if config.packing == "documents" else collate,
            processing_class=tokenizer,
        )
        if config.packing == "documents":
            require_separation(trainer)
        save = partial(save_model, trainer.model, tokenizer)
        own_callbacks(trainer, run, save, Samples(tokenizer, config.sample_prompts, config.sample_length))
        facts = train(trainer, run)
        # Save
        metrics = {"train_loss": facts["train_loss"]}
        if test_rows is not None:
            metrics |= held_out_metrics(trainer)
        run.publish(save, metrics, **facts)
    return run.folder


def start_model(config: PretrainConfig, tokenizer):
    """A new model of `config.model_config`, sized to the tokenizer, or the checkpoint to continue."""
    if config.model_name_or_path:
        return load_trainable(config)
    settings = dict(config.model_config)
    model_config = AutoConfig.for_model(
        settings.pop("model_type"),
        **{"vocab_size": len(tokenizer), **settings},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    options = {"attn_implementation": config.attn_implementation} if config.attn_implementation else {}
    return AutoModelForCausalLM.from_config(model_config, **options).to(device())
