"""hfkit dpo configs/quickstart/dpo.yaml

Direct preference optimization with TRL's DPOTrainer, on the pairs or rankings that reward modeling takes. All losses of
TRL; LoRA or full fine-tuning. The reference is the SFT model that training starts from; with LoRA both share one base.
"""

import copy
import math
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import set_seed

from hfkit.config.stages import DPOConfig
from hfkit.core.console import say, warn
from hfkit.core.device import prepare_device
from hfkit.core.files import hash_of
from hfkit.data.caching import content_hash
from hfkit.data.chat_template import encode_prompt
from hfkit.data.comparisons import COMPARISONS, encode_pairs, pair_of
from hfkit.data.messages import RenderError, readable_turns, tools_of
from hfkit.data.rendering import variables_of
from hfkit.data.splits import load_splits, report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.models.adapters import record_base
from hfkit.models.end_token import warn_of_end_token
from hfkit.models.loading import load_trainable, without_expert_dropout
from hfkit.models.model_config import context_tokens
from hfkit.models.saving import save_model
from hfkit.models.sft_loss import router_arguments
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.records.record import settings_of
from hfkit.rlhf.policy_evaluation import compare_policies, save_with_samples
from hfkit.rlhf.shared_base import copy_sharing_frozen
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import (
    held_out_metrics,
    keep_trainable_dtype,
    max_tokens,
    set_callbacks,
    train,
    trainer_arguments,
)
from hfkit.training.dpo_trainer import MicroBatchedDPOTrainer, PairCollator
from hfkit.training.memory.plan_run import plan_run
from hfkit.training.sharding import CollectiveSave


@push_when_done
def main(config: DPOConfig) -> Path:
    """Train all weights of the SFT model, or a LoRA adapter on it; return the run's folder."""
    set_seed(config.seed)
    prepare_device(config)
    config = without_expert_dropout(config)
    # Data
    tokenizer = load_stage_tokenizer(config)
    train_rows, test_rows, stats = load_splits(config, COMPARISONS)
    train_rows, held_out = encode_pairs(train_rows, tokenizer, stats["train"], config), test_rows
    if test_rows is not None:
        test_rows = encode_pairs(test_rows, tokenizer, stats["test"], config)
    if config.extra.get("precompute_ref_log_probs"):
        train_rows, test_rows = (rows and with_own_key(rows, config) for rows in (train_rows, test_rows))
    run = open_run("dpo", config, stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, stats)
        if "margin" in train_rows.column_names:
            warn("dpo: the pairs have margins, which the losses of DPO do not use")
        # Model
        config = plan_run(run)
        model = load_trainable(config)
        warn_of_end_token(model, tokenizer, config)
        reference = copy_sharing_frozen(model) if config.use_peft else copy.deepcopy(model)
        run.note(**record_base(model))
        # Trainer
        arguments = trainer_arguments(
            config,
            max_length=None,  # longer rows are dropped already
            remove_unused_columns=False,
            include_num_input_tokens_seen="non_padding",
            **router_arguments(model, config),
        )
        with keep_trainable_dtype(model):
            trainer = MicroBatchedDPOTrainer(
                model=model,
                ref_model=reference.requires_grad_(False).eval(),
                args=arguments,
                train_dataset=train_rows,
                eval_dataset=test_rows,
                data_collator=PairCollator(tokenizer, arguments.pad_to_multiple_of),
                processing_class=tokenizer,
                max_tokens=max_tokens(config, config.max_length, 2),
            )
        set_callbacks(trainer, run, CollectiveSave(trainer, partial(save_model, trainer.model, tokenizer)))
        facts = train(trainer, run)
        # Save
        metrics, samples = {"train_loss": facts["train_loss"], **held_out_metrics(trainer)}, []
        if test_rows is not None:
            found, samples = compare_with_reference(trainer, reference, test_rows, held_out, config)
            metrics |= found
        save = partial(save_with_samples, trainer.model, tokenizer, samples)
        run.publish(CollectiveSave(trainer, save), metrics, **facts)
    return run.folder


def with_own_key(rows: Dataset, config: DPOConfig) -> Dataset:
    """Return rows under a key in the cache that depends on all settings.

    trl 1.12.0: log-probabilities of the reference are cached by rows and weights alone, though `ld_alpha`, the
    precision and LoRA's scale change them.
    """
    return rows.select(range(len(rows)), new_fingerprint=hash_of([content_hash(rows), settings_of(config)]))


def compare_with_reference(
    trainer: MicroBatchedDPOTrainer, reference, pairs: Dataset, held_out: Dataset, config: DPOConfig
) -> tuple[dict[str, float], list[dict]]:
    """Return metrics and samples of responses to held-out prompts, before and after training.

    Args:
        pairs: encoded held-out pairs.
        held_out: their rows, before they were encoded.
    """
    tokenizer, prompts = trainer.processing_class, sampled_prompts(pairs, config, trainer.model)
    if not len(prompts):
        return {}, []
    prompts = with_messages(prompts, held_out, tokenizer)
    say(f"dpo: sampling responses to {len(prompts)} held-out prompts, before and after")
    return compare_policies(trainer.model, reference, tokenizer, None, prompts, trainer.args, "dpo")


def sampled_prompts(pairs: Dataset, config: DPOConfig, model) -> Dataset:
    """Return the first `eval_prompts` different prompts of encoded pairs, as `input_ids`.

    Prompts that leave no room for a response in the model's context are skipped, with a warning: `max_length` limits a
    prompt with its responses, which may be shorter than the sampled ones.
    """
    prompts = {tuple(row["chosen_ids"][: row["spans"][0][0]]): None for row in pairs} if config.eval_prompts else {}
    context = context_tokens(model.config) or math.inf
    fitting = [list(prompt) for prompt in prompts if len(prompt) + config.response_length <= context]
    if len(fitting) < len(prompts):
        warn(
            f"dpo: {len(prompts) - len(fitting)} of {len(prompts)} held-out prompts leave no room for response_length="
            f"{config.response_length} in the model's context of {context} tokens: they are skipped"
        )
    return Dataset.from_dict({"input_ids": fitting[: config.eval_prompts]})


def with_messages(prompts: Dataset, pairs: Dataset, tokenizer) -> Dataset:
    """Return encoded prompts with the column `prompt`: the messages of the pair that each is from, [] if unknown."""
    missing = {tuple(row["input_ids"]) for row in prompts}
    found: dict[tuple, list[dict]] = {}
    for row in pairs:
        if not missing:
            break
        try:
            prompt = row["prompt"] if row.get("prompt") else pair_of(row)[0]
            ids = tuple(encode_prompt(tokenizer, prompt, tools_of(row.get("tools")), variables_of(row)))
        except RenderError:  # a row that was dropped
            continue
        if ids in missing:
            missing.remove(ids)
            found[ids] = readable_turns(prompt)
    return prompts.add_column("prompt", [found.get(tuple(row["input_ids"]), []) for row in prompts])
