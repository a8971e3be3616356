"""python scripts/ppo.py --config configs/quickstart/ppo.yaml
accelerate launch scripts/ppo.py --config configs/quickstart/ppo.yaml

Train an SFT model with PPO against a reward model. The same as `hfkit ppo`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("ppo"))
