"""A batch of sampled responses, which all start in the same column, and its split into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from hfkit.core.device import largest_of_processes
from hfkit.data.forms import IGNORE
from hfkit.models.micro_batches import micro_batches
from hfkit.rlhf.arguments import OnlinePolicyArguments


def pad_rows(rows: list[list[int]], value: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows padded to the longest one, int64 (B, T), and a bool mask (B, T) that is False on padding."""
    pad_all = partial(pad_sequence, batch_first=True, padding_side="left" if left else "right")
    mask = pad_all([torch.ones(len(row), dtype=torch.bool) for row in rows])
    ids = pad_all([torch.tensor(row, dtype=torch.int64) for row in rows], padding_value=value)  # also of an empty row
    return ids, mask


@dataclass
class Tokens:
    """Prompts (B, P), padded on the left, and replies (B, R), padded on the right; masks are True on real tokens."""

    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    replies: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def from_lists(
        cls, prompts: list[list[int]], replies: list[list[int]], pad_id: int, device: torch.device | str
    ) -> "Tokens":
        """Pad lists of token ids."""
        parts = (*pad_rows(prompts, pad_id, left=True), *pad_rows(replies, pad_id, left=False))
        return cls(*(part.to(device) for part in parts))

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> torch.Tensor:
        """The number of tokens of each row, prompt and response together, (B,)."""
        return self.prompt_mask.sum(1) + self.mask.sum(1)

    def select(self, index: torch.Tensor) -> "Tokens":
        """Return the rows of an index, without the columns that are padding in all of them."""
        prompts, replies = self.prompt_mask[index], self.mask[index]
        begin, end = prompts.shape[1] - int(prompts.sum(1).max()), int(replies.sum(1).max())
        return Tokens(self.prompts[index, begin:], prompts[:, begin:], self.replies[index, :end], replies[:, :end])

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `position_ids`, (B, T - 1) each: all tokens of a row except the
        last.

        From these, a model predicts each token of the responses. Rows are aligned on the right, so T is the length of
        the longest row, not of the longest prompt plus the longest response; the predictions for a response of n
        tokens are in the last n columns.
        """
        ids, mask = torch.cat([self.prompts, self.replies], 1), torch.cat([self.prompt_mask, self.mask], 1)
        order = padding_first_order(mask)[:, -int(self.lengths.max()) :]
        mask = mask.gather(1, order)[:, :-1].long()
        return {
            "input_ids": ids.gather(1, order)[:, :-1],
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        }

    def targets(self) -> torch.Tensor:
        """Return the response token that follows each of the `model_inputs`, int64 (B, T - 1), or IGNORE."""
        order = padding_first_order(self.mask)
        replies = self.replies.where(self.mask, IGNORE).gather(1, order)
        return pad(replies, (int(self.lengths.max()) - 1 - replies.shape[1], 0), value=IGNORE)

    def left_aligned(self, per_token: torch.Tensor) -> torch.Tensor:
        """Return values (B, R) of the last columns of the rows in the order of `replies`."""
        return per_token.gather(1, padding_first_order(self.mask).argsort(1))


def padding_first_order(mask: torch.Tensor) -> torch.Tensor:
    """Return the order of columns (B, T) that puts padding first in each row and keeps the order of the tokens."""
    return mask.long().argsort(dim=1, stable=True)


def cut_rows(
    tokens: Tokens, index: torch.Tensor, args: OnlinePolicyArguments, call: int, together: bool = False
) -> list[torch.Tensor]:
    """Return the rows of an index in micro-batches (see `cut_by_length`)."""
    lengths = tokens.lengths
    parts = cut_by_length(lengths[index].tolist(), int(lengths.max()), args, call, together)
    return [index[torch.tensor(part, device=index.device)] for part in parts]


def cut_by_length(
    lengths: Sequence[int], longest: int, args: OnlinePolicyArguments, call: int, together: bool = False
) -> list[list[int]]:
    """Return rows in parts of similar length (see `micro_batches`), or in their given order.

    A part has at most `max_tokens_per_micro_batch` tokens, by default those of `per_device_train_batch_size` rows as
    long as the longest.

    Args:
        lengths: tokens of each row.
        longest: tokens of the longest row of all.
        together: whether there have to be as many parts in each process, since all compute a part together.
    """
    size, rows = args.per_device_train_batch_size, range(len(lengths))
    if not args.micro_batches_by_length:
        return [[*rows[start : start + size]] for start in rows[::size]]
    most = args.max_tokens_per_micro_batch or size * longest
    parts = micro_batches(lengths, most, call)
    if together:
        parts = micro_batches(lengths, most, call, count=largest_of_processes(len(parts)))
    return [part.tolist() for part in parts]
