"""hfkit reward configs/quickstart/reward.yaml

Reward modeling with TRL's RewardTrainer: a scalar head on the SFT model, trained on pairs of a chosen and a rejected
response or on rankings of several responses, as strings or conversations. An adapter is always saved with its head.
"""

from functools import partial
from pathlib import Path

from peft import TaskType
from transformers import set_seed

from hfkit.config.registry import spec_of
from hfkit.config.stages import RewardConfig
from hfkit.core.console import say, warn
from hfkit.core.device import prepare_device
from hfkit.core.launch import shards_weights
from hfkit.data.chat_template import reply_ending
from hfkit.data.comparisons import COMPARISONS, encode_comparisons, encode_held_out
from hfkit.data.splits import load_splits, report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.models.adapters import record_base
from hfkit.models.classifiers import describe_generic
from hfkit.models.loading import load_trainable, without_expert_dropout
from hfkit.models.saving import save_model
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.records.record import read_record
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
from hfkit.training.comparison_batches import ComparisonCollator, classifier_width, share_prefixes
from hfkit.training.comparison_trainer import ComparisonTrainer
from hfkit.training.memory.plan_run import plan_run
from hfkit.training.sharding import CollectiveSave


@push_when_done
def main(config: RewardConfig) -> Path:
    """Train the reward model, or an adapter and a head, and return the run's folder."""
    set_seed(config.seed)
    prepare_device(config)
    config = without_expert_dropout(config, TaskType.SEQ_CLS)
    # Data
    tokenizer = load_stage_tokenizer(config)
    train_rows, test_rows, stats = load_splits(config, COMPARISONS)
    is_ranking = "replies" in train_rows.column_names
    train_rows = encode_comparisons(train_rows, tokenizer, stats["train"], config)
    most_replies = max(map(len, train_rows["reply_ids"])) if is_ranking else 2
    if test_rows is not None:
        test_rows = encode_held_out(test_rows, tokenizer, stats["test"], config, as_rankings=is_ranking)
    run = open_run("reward", config, stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, stats)
        if is_ranking:
            say(f"train: {len(train_rows):,} rankings with {sum(map(len, train_rows['better'])):,} pairs")
        # Model
        config = plan_run(run, most_replies)
        start = spec_of((read_record(config.model_name_or_path) or {}).get("stage"))
        if start is not None and start.makes == "base model":
            warn(
                f"{config.model_name_or_path} is a pretrained model; a reward model learns more from the SFT model: "
                "set model_name_or_path to the output of `hfkit sft`"
            )
        with loading_in_shards(config):
            model = load_trainable(config, TaskType.SEQ_CLS)
        run.note(**record_base(model), **describe_generic(model), reply_ending=reply_ending(tokenizer))
        # Trainer
        arguments = trainer_arguments(
            config,
            max_length=None,  # the rows are tokenized and filtered already
            remove_unused_columns=False,  # train_sampling_strategy: group_by_length reads `length`
            include_num_input_tokens_seen="non_padding",
        )
        is_sharded = shards_weights(config.extra)  # no process can call the model before training begins
        # the noise of NEFTune is that of a sequence, so with it each response has its own
        shares = config.micro_batches_by_length and not arguments.neftune_noise_alpha
        width = classifier_width(model, train_rows, test_rows) if shares and not is_sharded else None
        with keep_trainable_dtype(model):
            trainer = ComparisonTrainer(
                model=model,
                args=arguments,
                data_collator=ComparisonCollator(tokenizer, width, arguments.pad_to_multiple_of),
                train_dataset=train_rows,
                eval_dataset=test_rows,
                processing_class=tokenizer,
                max_tokens=max_tokens(config, config.max_length, most_replies),
            )
        save = CollectiveSave(trainer, partial(save_model, trainer.model, tokenizer))
        if shares and is_sharded:
            trainer.add_callback(BeforeFirstStep(partial(share_prefixes, trainer)))
        set_callbacks(trainer, run, save)
        facts = train(trainer, run)
        # Save
        run.publish(save, {"train_loss": facts["train_loss"], **held_out_metrics(trainer)}, **facts)
    return run.folder
