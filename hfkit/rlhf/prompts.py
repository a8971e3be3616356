"""Which rows an update takes: by its number alone, so that a resumed run goes on with the rows it would have seen."""

import torch


class Shuffled:
    """Positions of a data set's rows in a new random order each pass.

    Args:
        rows: how many there are.
        seed: of the orders.
    """

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed = rows, seed
        self.orders: dict[int, list[int]] = {}

    def take(self, start: int, count: int) -> list[int]:
        """The positions of the `count` rows after the first `start` ones."""
        return [self.order(place // self.rows)[place % self.rows] for place in range(start, start + count)]

    def order(self, passes: int) -> list[int]:
        """The order of a pass; only the latest are kept."""
        if passes not in self.orders:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + passes)
            self.orders = {key: order for key, order in self.orders.items() if key == passes - 1} | {
                passes: torch.randperm(self.rows, generator=generator).tolist()
            }
        return self.orders[passes]
