"""hfkit pull USER/NAME@REVISION models/name

Fetches a model, adapter or tokenizer from the Hub into a folder that works offline. An adapter comes with its base, in
a folder `base` within its own. Only weights in safetensors are fetched, and checked by their hash; no code is fetched.
"""

from argparse import Namespace

from hfkit.hub.pull import pull


def main(given: Namespace) -> int:
    """Run `hfkit pull`."""
    pull(**vars(given))
    return 0
