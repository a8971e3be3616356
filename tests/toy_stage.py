"""hfkit toy --config toy.yaml

A stage that a user adds to hfkit: Transformers' Trainer on instructions, with a loss scaled by `loss_scale`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import DataCollatorForSeq2Seq, Trainer, set_seed

from hfkit.config.fields import arg
from hfkit.config.registry import Input, StageSpec
from hfkit.config.stages import SFTConfig
from hfkit.core.device import prepare_device
from hfkit.data.forms import INSTRUCTIONS, encode_instructions
from hfkit.data.splits import load_splits, report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.models.adapters import record_base
from hfkit.models.loading import load_trainable
from hfkit.models.saving import save_model
from hfkit.models.tokenizers import load_tokenizer
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import held_out_metrics, set_callbacks, train, trainer_arguments
from hfkit.training.sharding import CollectiveSave


@dataclass(kw_only=True)
class ToyConfig(SFTConfig):
    """SFT with a scaled loss."""

    loss_scale: float = arg(2.0, help="factor of the loss")

    trainer_config = ("transformers", "TrainingArguments")


TOY = StageSpec(
    name="toy",
    config_class=ToyConfig,
    module="toy_stage",
    help="train a toy",
    title="Toy stage",
    purpose="A toy model, fine-tuned with a scaled loss.",
    makes="assistant",
    form="instructions",
    length_key="max_length",
    inputs=(Input(key="model_name_or_path", stages=("pretrain",)),),
    limits="Nobody should trust a toy.",
    loss_label=("Toy loss", "scaled cross entropy (nats per token)"),
    step_name="toy steps",
)


class ScaledTrainer(Trainer):
    """Scales the loss."""

    loss_scale = 1.0

    def compute_loss(self, *args, return_outputs: bool = False, **kwargs):
        loss, outputs = super().compute_loss(*args, return_outputs=True, **kwargs)
        loss = self.loss_scale * loss
        return (loss, outputs) if return_outputs else loss


@push_when_done
def main(config: ToyConfig) -> Path:
    """Train the model and return the run's folder."""
    set_seed(config.seed)
    prepare_device(config)
    # Data
    tokenizer = load_tokenizer(config.model_name_or_path, config.model_revision, config.pad_token, config.chat_template)
    train_rows, test_rows, stats = load_splits(config, INSTRUCTIONS)
    train_rows = encode_instructions(train_rows, tokenizer, stats["train"], config)
    if test_rows is not None:
        test_rows = encode_instructions(test_rows, tokenizer, stats["test"], config)
    run = open_run("toy", config, stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, stats)
        # Model
        model = load_trainable(config)
        run.note(**record_base(model))
        # Trainer
        trainer = ScaledTrainer(
            model=model,
            args=trainer_arguments(config, include_num_input_tokens_seen="non_padding"),
            train_dataset=train_rows,
            eval_dataset=test_rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            processing_class=tokenizer,
        )
        trainer.loss_scale = config.loss_scale
        save = CollectiveSave(trainer, partial(save_model, trainer.model, tokenizer))
        set_callbacks(trainer, run, save)
        facts = train(trainer, run)
        # Save
        metrics = {"train_loss": facts["train_loss"]}
        if test_rows is not None:
            metrics |= held_out_metrics(trainer)
        run.publish(save, metrics, **facts)
    return run.folder
