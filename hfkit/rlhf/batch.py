"""A batch of sampled replies, laid out so that the replies of all rows begin in the same column."""

from dataclasses import dataclass
from itertools import pairwise

import torch


def pad(rows: list[list[int]], value: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, longest) and the mask of what is not padding."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for place, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[place, where] = torch.tensor(row)
        mask[place, where] = True
    return ids, mask


@dataclass
class Tokens:
    """Prompts (B, P), padded on the left, and replies (B, R), padded on the right; masks are True on real tokens."""

    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    replies: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, prompts: list[list[int]], replies: list[list[int]], pad_id: int, device) -> "Tokens":
        """From lists of token ids."""
        parts = (*pad(prompts, pad_id, left=True), *pad(replies, pad_id, left=False))
        return cls(*(part.to(device) for part in parts))

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each row, prompt and reply, (B,)."""
        return self.prompt_mask.sum(1) + self.mask.sum(1)

    def rows(self, index: torch.Tensor) -> "Tokens":
        """Some rows, without the columns that are padding in all of them."""
        prompts, replies = self.prompt_mask[index], self.mask[index]
        begin, end = prompts.shape[1] - int(prompts.sum(1).max()), int(replies.sum(1).max())
        return Tokens(self.prompts[index, begin:], prompts[:, begin:], self.replies[index, :end], replies[:, :end])

    def inputs(self) -> dict[str, torch.Tensor]:
        """What a model reads to give a prediction for each token of the replies: all tokens of a row but its last.

        Rows are closed up to the right, so that they are as long as the longest one, and not as the longest prompt and
        the longest reply; the predictions for a reply of n tokens are in the last n columns.
        """
        ids, mask = torch.cat([self.prompts, self.replies], 1), torch.cat([self.prompt_mask, self.mask], 1)
        order = to_the_right(mask)[:, -int(self.lengths.max()) :]
        mask = mask.gather(1, order)[:, :-1].long()
        return {
            "input_ids": ids.gather(1, order)[:, :-1],
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        }

    def replies_at_right(self) -> torch.Tensor:
        """The replies (B, R) as they stand in the last columns of the rows."""
        return self.replies.gather(1, to_the_right(self.mask))

    def from_right(self, per_token: torch.Tensor) -> torch.Tensor:
        """Figures (B, R) of `replies_at_right` in the order of `replies`."""
        return per_token.gather(1, to_the_right(self.mask).argsort(1))


def to_the_right(mask: torch.Tensor) -> torch.Tensor:
    """The order of columns in which what is masked out comes first in each row, and the rest keeps its order."""
    return mask.long().argsort(dim=1, stable=True)


def micro_batches(tokens: Tokens, index: torch.Tensor, size: int) -> list[torch.Tensor]:
    """The rows of an index in as many parts as of `size` rows each, the longest first, cut where the least is padded.

    A part of long rows has fewer than `size`, one of short rows more; none has more tokens, or more columns of replies,
    than `size` rows as long as the longest.
    """
    lengths, replies = tokens.lengths[index].cpu(), tokens.mask[index].sum(1).cpu()
    order = lengths.argsort(descending=True, stable=True)
    lengths, replies, count = lengths[order], replies[order], len(index)
    # of the part that begins with row x and ends before row y, at [x, y - 1]
    rows = torch.arange(1, count + 1) - torch.arange(count)[:, None]
    longest_reply = replies.expand(count, -1).where(rows > 0, 0).cummax(1).values
    padded, columns = rows * lengths[:, None], rows * longest_reply
    fits = (rows > 0) & (padded <= size * lengths[0]) & (columns <= size * replies.max())
    cost = padded.double().where(fits, torch.inf)
    # tokens of the first y rows in one part, in two, ...: each time the best place for the last part to begin
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
