"""The rows of each update: they depend only on the seed and the position, so a resumed run takes the same rows."""

import torch


class ShuffledOrder:
    """Indices of a dataset's rows, in a new random order for each pass."""

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed = rows, seed
        self.orders: dict[int, list[int]] = {}

    def take(self, start: int, count: int) -> list[int]:
        """Return the indices of the `count` rows after the first `start`."""
        return [self.order(taken // self.rows)[taken % self.rows] for taken in range(start, start + count)]

    def order(self, epoch: int) -> list[int]:
        """Return the order of a pass; the last two orders are kept in memory."""
        if epoch not in self.orders:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
            self.orders = {key: order for key, order in self.orders.items() if key == epoch - 1}
            self.orders[epoch] = torch.randperm(self.rows, generator=generator).tolist()
        return self.orders[epoch]
