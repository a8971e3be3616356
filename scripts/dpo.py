"""python scripts/dpo.py --config configs/quickstart/dpo.yaml
accelerate launch scripts/dpo.py --config configs/quickstart/dpo.yaml

Train a policy with DPO on chosen and rejected responses. The same as `hfkit dpo`.
"""

import sys

from hfkit.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("dpo"))
