"""Rows as the stages read them: of a source, and of a conversation."""

from datasets import Dataset

from hfkit.data.chat_template import Sequence, split_conversation
from hfkit.data.sources import read_entry


def load_entry(*given, **options) -> Dataset:
    """Return the rows of one entry."""
    return read_entry(*given, **options).rows


def encode_conversation(*given) -> Sequence:
    """Return the token ids of a prompt with its response, and a mask of the assistant's tokens."""
    return split_conversation(*given)[-1]
