"""hfkit tokenizer --config configs/quickstart/tokenizer.yaml

Trains a byte-level BPE tokenizer on a text column: lossless on any Unicode, with an end-of-text token, a pad token of
its own, the chat markers and a chat template that marks the assistant's part.
"""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hfkit.config.stages import TokenizerConfig
from hfkit.core.console import say
from hfkit.data import faults
from hfkit.data.encoding import with_text
from hfkit.data.splits import load_splits, tell
from hfkit.hub.stage import then_push
from hfkit.training.run import Run

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
MARKERS = ["<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = Path(__file__).with_name("chat.jinja")


@then_push
def main(config: TokenizerConfig) -> Path:
    """Trains the tokenizer and returns its folder."""
    # Data
    rows, _, account = load_splits(config, ["text"])
    rows = with_text(rows, account["train"])
    account["train"].faults = faults.of_column(rows.with_format("arrow")[:]["text"])
    rows = account["train"].mix(rows, np.zeros(len(rows), dtype=int))  # tokens are what is only made here
    run = Run("tokenizer", config, {"train": account["train"].as_dict()}, parents=[])
    if run.is_done:
        say(f"tokenizer: already done in {run.folder}")
        return run.folder
    with run.training():
        tell(run, account)
        # Training
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=[END_OF_TEXT, PAD, *MARKERS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every byte, so no text is unknown
            show_progress=False,
        )
        batches = (batch["text"] for batch in rows.iter(1000))
        tokenizer.train_from_iterator(batches, trainer, length=len(rows))
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token=END_OF_TEXT,
            pad_token=PAD,
            additional_special_tokens=MARKERS,
            model_max_length=config.model_max_length,
            clean_up_tokenization_spaces=False,
            chat_template=Path(config.chat_template or CHAT_TEMPLATE).read_text(),
        )
        # Save
        sample = "".join(rows[: min(len(rows), 200)]["text"])
        per_token = len(sample.encode()) / max(len(fast(sample).input_ids), 1)
        say(f"tokenizer: {len(fast):,} tokens, {per_token:.2f} bytes per token")
        run.publish(fast.save_pretrained, {"vocab_size": len(fast), "bytes_per_token": per_token})
    return run.folder
