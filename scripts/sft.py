"""python scripts/sft.py --config configs/quickstart/sft.yaml
accelerate launch scripts/sft.py --config configs/quickstart/sft.yaml

Fine-tune a model on instructions and responses, in full or with a LoRA adapter. The same as `hfkit sft`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("sft"))
