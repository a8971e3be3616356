"""The language modeling loss against forgetting: PPO-ptx of Ouyang et al. 2022 (arXiv 2203.02155)."""

from types import SimpleNamespace

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hfkit.config.stages import PPOConfig
from hfkit.data.forms import IGNORE, INSTRUCTIONS, encode_instructions
from hfkit.data.held_out import keys_of, overlaps
from hfkit.data.splits import SplitStats, load_rows
from hfkit.models.micro_batches import call_tokens
from hfkit.models.summed_losses import sum_losses
from hfkit.models.token_predictions import cross_entropy, shifted
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.batch import cut_by_length, pad_rows
from hfkit.rlhf.forward import Model, autocast
from hfkit.rlhf.row_order import ShuffledOrder


def load_ptx(
    config: PPOConfig, tokenizer: PreTrainedTokenizerBase, test: SplitStats | None = None
) -> tuple[Dataset | None, dict[str, SplitStats]]:
    """Return `input_ids` and `labels` of `ptx_datasets`, encoded as in SFT, and their split; None if `ptx_coef` is 0.

    They are trained on, so the rows of the held-out split `test` are removed from them too.
    """
    if not config.ptx_coef:
        return None, {}
    rows, split = load_rows("ptx", config.ptx_datasets, INSTRUCTIONS, seed=config.seed)
    split.keys = keys_of(rows, config.dataset_num_proc)
    if test is not None:  # rows of `test_split_size` are not in the split, as with the prompts
        rows = split.leave_out(rows, test, counted=bool(config.eval_datasets))
    split.overlap = [found for _, found in overlaps(config, {"ptx": split.keys})]
    settings = SimpleNamespace(**{**vars(config), "max_length": config.ptx_max_length})
    return encode_instructions(rows, tokenizer, split, settings), {"ptx": split}


class PTX:
    """gamma E[log policy(x)] of equation 2: each optimizer step takes as many rows as its mini-batch has responses.

    Args:
        rows: `input_ids` and `labels`.

    Attributes:
        taken: number of rows that earlier optimizer steps took; a resumed run sets it.
    """

    def __init__(self, args: PPOArguments, accelerator: Accelerator, rows: Dataset, pad_id: int):
        self.args, self.accelerator, self.rows, self.pad_id = args, accelerator, rows, pad_id
        self.order = ShuffledOrder(len(rows), args.seed)
        self.taken = 0

    def backward(self, policy: Model, size: int, together: bool = False) -> float:
        """Add `ptx_coef` times the gradient of the mean loss over the labels of all processes; return that mean.

        Args:
            size: number of rows to take, in each process.
            together: whether each process needs the same number of micro-batches.
        """
        args, device = self.args, self.accelerator.device
        start = self.taken + args.process_index * size
        rows = [self.rows[index] for index in self.order.take(start, size)]
        self.taken += size * self.accelerator.num_processes
        lengths = [len(row["input_ids"]) for row in rows]
        parts = cut_by_length(lengths, max(lengths), args, call_tokens(policy), together)
        batches = [self.batch([rows[index] for index in part]) for part in parts]
        count = self.accelerator.reduce(sum((batch["labels"][:, 1:] != IGNORE).sum() for batch in batches), "sum")
        total = torch.zeros((), device=device)
        for batch in batches:
            targets = shifted(batch.pop("labels"))
            with autocast(args.bf16, device):
                (loss,) = sum_losses(policy, batch, targets, cross_entropy)
            (args.ptx_coef * loss / count).backward()
            total += loss.detach()
        return float(self.accelerator.reduce(total, "sum") / count)

    def batch(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Return some rows, padded on the right: `input_ids`, `attention_mask` and `labels`, int64 (B, T) each."""
        ids, mask = pad_rows([row["input_ids"] for row in rows], self.pad_id, left=False)
        labels, _ = pad_rows([row["labels"] for row in rows], IGNORE, left=False)
        batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
