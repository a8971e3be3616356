"""python benchmarks/gpu_models.py SHAPE FOLDER cuda|cpu [TOKENIZER]

Writes a Llama of a shape, with random weights that are made on the device, to FOLDER/SHAPE, and rows for the stages to
FOLDER: random words, whose lengths spread like those of conversations. On a CPU the shapes are tiny. Without the folder
of a tokenizer, one is trained on those words.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

import hfkit
from hfkit.models.tokenizers import load_tokenizer

SHAPES = {
    "135M": (576, 1536, 30, 9, 3, 49152, True),
    "1B": (2048, 8192, 16, 32, 8, 128256, True),
    "8B": (4096, 14336, 32, 32, 8, 128256, False),
}
ROWS = {"sft": "instructions", "reward": "preferences", "dpo": "preferences", "pretrain": "documents"}
VOCABULARY = 1000  # words
COUNT = 1200


def config_of(shape: str, is_tiny: bool, **tokens: int) -> LlamaConfig:
    hidden, inner, layers, heads, key_heads, vocabulary, tied = SHAPES[shape]
    if is_tiny:
        hidden, inner, layers, heads, key_heads, vocabulary = 48, 96, 2, 3, 3, 1536
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=8192,
        **tokens,
    )


def write_rows(folder: Path, is_tiny: bool) -> None:
    """Rows of the three stages. Lengths are log-normal: half of the responses have under 100 words, few have 600."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 7))) for _ in range(VOCABULARY)]

    def text(median: float) -> str:
        count = int(chance.lognormvariate(0, 0.9) * (median / 10 if is_tiny else median))
        return " ".join(chance.choices(words, k=max(1, min(count, 700))))

    made = {
        "instructions": lambda: {"prompt": text(30), "response": text(100)},
        "preferences": lambda: {"prompt": text(60), "chosen": text(80), "rejected": text(60)},
        "documents": lambda: {"text": text(400)},
    }
    for name, row in made.items():
        lines = [json.dumps(row()) + "\n" for _ in range(COUNT // 8 if is_tiny else COUNT)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(shape: str, folder: Path, device: str, tokenizer_dir: str | None = None) -> None:
    """Writes the rows if there are none, then the model: under another name until it is whole."""
    is_tiny = device == "cpu"
    if not (folder / "documents.jsonl").is_file():
        write_rows(folder, is_tiny)
    with tempfile.TemporaryDirectory(dir=folder) as making:
        out = Path(making) / shape
        if tokenizer_dir is None:
            source = [hfkit.DatasetEntry(path=str(folder / "documents.jsonl"))]
            settings = hfkit.TokenizerConfig(output_dir=f"{making}/tokenizer", datasets=source, vocab_size=1500)
            tokenizer_dir = str(hfkit.train_tokenizer(settings))
        tokenizer = load_tokenizer(tokenizer_dir)
        special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        set_seed(0)
        with torch.device(device):
            torch.set_default_dtype(torch.float32 if is_tiny else torch.bfloat16)
            model = LlamaForCausalLM(config_of(shape, is_tiny, **special))
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        out.rename(folder / shape)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
