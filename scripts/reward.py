"""python scripts/reward.py --config configs/quickstart/reward.yaml
accelerate launch scripts/reward.py --config configs/quickstart/reward.yaml

Train a reward model on chosen and rejected responses. The same as `hfkit reward`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("reward"))
