"""A batch of sampled replies in which all replies start in the same column, and its cut into micro-batches."""

from dataclasses import dataclass
from itertools import pairwise

import torch


def pad_rows(rows: list[list[int]], value: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows padded to the longest one, int64 (B, T), and a bool mask (B, T) that is False on padding."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        columns = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, columns] = torch.tensor(row)
        mask[index, columns] = True
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
        """The number of tokens of each row, prompt and reply together, (B,)."""
        return self.prompt_mask.sum(1) + self.mask.sum(1)

    def select(self, index: torch.Tensor) -> "Tokens":
        """Return the rows of an index, without the columns that are padding in all of them."""
        prompts, replies = self.prompt_mask[index], self.mask[index]
        begin, end = prompts.shape[1] - int(prompts.sum(1).max()), int(replies.sum(1).max())
        return Tokens(self.prompts[index, begin:], prompts[:, begin:], self.replies[index, :end], replies[:, :end])

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `position_ids`, (B, T - 1) each: every token of a row but its last.

        A model that reads them predicts each token of the replies. Rows are aligned on the right, so T is the length of
        the longest row and not that of the longest prompt plus the longest reply; the predictions for a reply of n
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

    def right_aligned_replies(self) -> torch.Tensor:
        """Return the replies (B, R) as they stand in the last columns of the rows."""
        return self.replies.gather(1, padding_first_order(self.mask))

    def left_aligned(self, per_token: torch.Tensor) -> torch.Tensor:
        """Return values (B, R) of `right_aligned_replies` in the order of `replies`."""
        return per_token.gather(1, padding_first_order(self.mask).argsort(1))


def padding_first_order(mask: torch.Tensor) -> torch.Tensor:
    """Return the order of columns (B, T) that puts padding first in each row and keeps the order of the tokens."""
    return mask.long().argsort(dim=1, stable=True)


def micro_batches(tokens: Tokens, index: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Return the rows of an index in ceil(len(index) / size) parts, longest rows first, cut to have the least padding.

    A part of long rows has fewer than `size` rows, one of short rows more. No part has more tokens, or more reply
    columns, than `size` rows of the greatest length.
    """
    lengths, replies = tokens.lengths[index].cpu(), tokens.mask[index].sum(1).cpu()
    order = lengths.argsort(descending=True, stable=True)
    lengths, replies, count = lengths[order], replies[order], len(index)
    # entry [x, y - 1] is about the part that begins with row x and ends before row y
    rows = torch.arange(1, count + 1) - torch.arange(count)[:, None]
    longest_reply = replies.expand(count, -1).where(rows > 0, 0).cummax(1).values
    padded, columns = rows * lengths[:, None], rows * longest_reply
    fits = (rows > 0) & (padded <= size * lengths[0]) & (columns <= size * replies.max())
    cost = padded.double().where(fits, torch.inf)
    # dynamic programming over the number of parts: fewest tokens of the first y rows, and where the last part begins
    best, begins = cost[0], []
    for _ in range(-(-count // size) - 1):
        before = torch.cat([best.new_tensor([torch.inf]), best[:-1]])
        best, begin = (before[:, None] + cost).min(0)
        begins.append(begin)
    cuts = [count]
    for begin in reversed(begins):
        cuts.append(int(begin[cuts[-1] - 1]))
    sizes = [end - start for start, end in pairwise([0, *reversed(cuts)])]
    return list(index[order.to(index.device)].split(sizes))
