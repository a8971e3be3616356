"""hfkit tokenizer configs/quickstart/tokenizer.yaml

Trains a byte-level BPE tokenizer on a text column. It is lossless on any Unicode text and has an end-of-text token, a
separate pad token, chat markers and a chat template that marks the assistant's tokens.
"""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hfkit.config.stages import TokenizerConfig
from hfkit.core.console import say
from hfkit.data import faults
from hfkit.data.built_in_templates import BUILT_IN_TOKENS, read_built_in
from hfkit.data.encoding import drop_empty_texts
from hfkit.data.splits import load_splits, report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.stages.open_run import open_run

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
MARKERS = ["<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = Path(__file__).with_name("chat.jinja")


@push_when_done
def main(config: TokenizerConfig) -> Path:
    """Train the tokenizer and return the run's folder."""
    # Data
    rows, _, stats = load_splits(config, ["text"])
    rows = drop_empty_texts(rows, stats["train"])
    stats["train"].faults = faults.of_column(rows.with_format("arrow")[:]["text"])
    rows = stats["train"].mix(rows, np.zeros(len(rows), dtype=int))  # no tokenizer exists yet to count tokens
    run = open_run("tokenizer", config, stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, stats)
        # Model
        template, markers = template_of(config)
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        # Trainer
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=[END_OF_TEXT, PAD, *markers],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every byte, so that no text is unknown
            show_progress=False,
        )
        batches = (batch["text"] for batch in rows.iter(1000))
        bpe.train_from_iterator(batches, trainer, length=len(rows))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe,
            eos_token=END_OF_TEXT,
            pad_token=PAD,
            additional_special_tokens=markers,
            model_max_length=config.model_max_length,
            clean_up_tokenization_spaces=False,
            chat_template=template,
        )
        # Save
        sample = "".join(rows[: min(len(rows), 200)]["text"])
        per_token = len(sample.encode()) / max(len(tokenizer(sample).input_ids), 1)
        say(f"tokenizer: {len(tokenizer):,} tokens, {per_token:.2f} bytes per token")
        run.publish(tokenizer.save_pretrained, {"vocab_size": len(tokenizer), "bytes_per_token": per_token})
    return run.folder


def template_of(config: TokenizerConfig) -> tuple[str, list[str]]:
    """Return the chat template of a config and its marker tokens: those of a built-in template, or hfkit's own."""
    chosen = config.chat_template
    if chosen in BUILT_IN_TOKENS and not Path(chosen).is_file():
        return read_built_in(chosen), [*BUILT_IN_TOKENS[chosen]]
    return Path(chosen or CHAT_TEMPLATE).read_text(encoding="utf-8"), MARKERS
