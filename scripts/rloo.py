"""python scripts/rloo.py --config configs/quickstart/rloo.yaml
accelerate launch scripts/rloo.py --config configs/quickstart/rloo.yaml

Train an SFT model with RLOO, on a reward model or reward functions. The same as `hfkit rloo`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("rloo"))
