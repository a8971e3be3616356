"""The figures as modules of Hugging Face's `evaluate`, loaded by path, without a network.

    from hfkit.metrics.evaluate import load

    load("distinct").compute(predictions=["one reply", "another reply"])

`load(name)` is `evaluate.load` of a file in this folder. The arithmetic is that of `formulas.py` and `preference.py`,
which every stage uses. One import a line here: `evaluate` reads them with a parser of its own.
"""

from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load(name: str):
    """The `evaluate` module of a name in `NAMES`."""
    import evaluate

    return evaluate.load(str(Path(__file__).with_name(f"{name}.py")))
