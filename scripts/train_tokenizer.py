"""python scripts/train_tokenizer.py --config configs/quickstart/tokenizer.yaml

Train a byte-level BPE tokenizer with chat markers on raw text. The same as `hfkit tokenizer`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("tokenizer"))
