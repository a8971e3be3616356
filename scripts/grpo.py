"""python scripts/grpo.py --config configs/quickstart/grpo.yaml
accelerate launch scripts/grpo.py --config configs/quickstart/grpo.yaml

Train an SFT model with GRPO, on a reward model or reward functions. The same as `hfkit grpo`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("grpo"))
