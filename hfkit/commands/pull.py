"""hfkit pull USER/NAME@REVISION models/name

Fetches a model, adapter or tokenizer from the Hub into a folder that works offline. The base of an adapter is fetched
too, into its subfolder `base`. Weights are fetched only as safetensors, and checked by their hash; code is not fetched.
"""

from argparse import Namespace

from hfkit.hub.pull import pull


def main(given: Namespace) -> int:
    """Run `hfkit pull`."""
    pull(**vars(given))
    return 0
