"""The language modelling loss that keeps PPO from forgetting: PPO-ptx of Ouyang et al. 2022 (arXiv 2203.02155)."""

import copy

import torch
from accelerate import Accelerator
from datasets import Dataset

from hfkit.data.forms import IGNORE, INSTRUCTIONS, encode_instructions
from hfkit.data.held_out import keys_of, overlaps
from hfkit.data.splits import SplitStats, load_rows
from hfkit.rlhf.batch import pad
from hfkit.rlhf.config import PPOConfig
from hfkit.rlhf.forward import autocast, widened
from hfkit.rlhf.prompts import Shuffled


def load_ptx(config, tokenizer, test: SplitStats | None = None) -> tuple[Dataset | None, dict[str, SplitStats]]:
    """`input_ids` and `labels` of `ptx_datasets`, as SFT encodes them, with their account; None without a weight.

    They are trained on: what is held out is taken out of them too.

    Args:
        test: the held-out split of this run.
    """
    if not config.ptx_coef:
        return None, {}
    rows, account = load_rows("ptx", config.ptx_datasets, INSTRUCTIONS, seed=config.seed)
    account.keys = keys_of(rows, config.dataset_num_proc)
    if test is not None:  # what `test_split_size` holds out counts as little here as among the prompts
        rows = account.leave_out(rows, test, counted=bool(config.eval_datasets))
    account.overlap = [found for _, found in overlaps(config, {"ptx": account.keys})]
    settings = copy.copy(config)
    settings.max_length = config.ptx_max_length
    return encode_instructions(rows, tokenizer, account, settings), {"ptx": account}


class PTX:
    """Equation 2's gamma E[log policy(x)]: as many rows in each optimizer step as the mini-batch has replies.

    Args:
        rows: `input_ids` and `labels`.
        taken: rows that earlier updates took, where a run goes on.
    """

    def __init__(self, args: PPOConfig, accelerator: Accelerator, rows: Dataset, pad_id: int):
        self.args, self.accelerator, self.rows, self.pad_id = args, accelerator, rows, pad_id
        self.order = Shuffled(len(rows), args.seed)
        self.taken = 0

    def backward(self, policy, micro_batches: int) -> float:
        """Adds `ptx_coef` times the gradient of the mean loss over the labels of all processes; returns that mean."""
        args, size = self.args, self.args.per_device_train_batch_size
        start = self.taken + args.process_index * micro_batches * size
        places = self.order.take(start, micro_batches * size)
        self.taken += micro_batches * size * self.accelerator.num_processes
        batches = [self.batch(places[at : at + size]) for at in range(0, len(places), size)]
        count = self.accelerator.reduce(sum((batch["labels"][:, 1:] != IGNORE).sum() for batch in batches), "sum")
        total = torch.zeros((), device=self.accelerator.device)
        for batch in batches:
            labels = batch.pop("labels")
            with autocast(args, self.accelerator.device):
                logits = policy(**batch, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                widened(logits[:, :-1].flatten(0, 1)), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
            )
            (args.ptx_coef * loss / count).backward()
            total += loss.detach()
        return float(self.accelerator.reduce(total, "sum") / count)

    def batch(self, places: list[int]) -> dict[str, torch.Tensor]:
        """Some rows, padded on the right."""
        rows = [self.rows[place] for place in places]
        ids, mask = pad([row["input_ids"] for row in rows], self.pad_id, left=False)
        labels, _ = pad([row["labels"] for row in rows], IGNORE, left=False)
        batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
