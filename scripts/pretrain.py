"""python scripts/pretrain.py --config configs/quickstart/pretrain.yaml
accelerate launch scripts/pretrain.py --config configs/quickstart/pretrain.yaml

Pretrain a causal language model on raw text, from scratch or continued. The same as `hfkit pretrain`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("pretrain"))
