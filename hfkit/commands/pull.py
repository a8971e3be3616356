"""hfkit pull USER/NAME@REVISION models/name

Fetches a model, adapter or tokenizer from the Hub into a folder that works offline: an adapter brings its base, into a
folder `base` within its own. Weights come in safetensors alone, and are checked by their hash; no code comes along.
"""

from argparse import Namespace

from hfkit.hub.pull import pull


def main(given: Namespace) -> int:
    """Run `hfkit pull`."""
    pull(**vars(given))
    return 0
