"""Provides the metrics as modules of Hugging Face's `evaluate`, loaded by path, without a network.

    from hfkit.metrics.evaluate import load

    load("distinct").compute(predictions=["one response", "another response"])

`load(name)` is `evaluate.load` of a file in this folder. The formulas are those that the stages use, in `formulas.py`
and `preference.py`. These files have one import per line: `evaluate` parses imports line by line.
"""

from pathlib import Path

import evaluate

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load(name: str) -> evaluate.EvaluationModule:
    """Load the `evaluate` module of a name in `NAMES`."""
    return evaluate.load(str(Path(__file__).with_name(f"{name}.py")))
