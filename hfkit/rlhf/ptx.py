"""The rows of the language modelling loss that keeps PPO from forgetting (PPO-ptx, arXiv 2203.02155)."""

import dataclasses

from datasets import Dataset

from hfkit.data import Split, load_rows
from hfkit.forms import INSTRUCTIONS, encode_instructions


def load_ptx(config, tokenizer) -> tuple[Dataset | None, dict[str, Split]]:
    """`input_ids` and `labels` of `ptx_datasets`, as SFT encodes them, with their account; None without a weight."""
    if not config.ptx_coef:
        return None, {}
    rows, account = load_rows("ptx", config.ptx_datasets, INSTRUCTIONS)
    settings = dataclasses.replace(config)
    settings.max_length = config.ptx_max_length
    return encode_instructions(rows, tokenizer, account, settings), {"ptx": account}
