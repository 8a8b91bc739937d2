"""Which rows make up optimizer step k: a function of seed and step, with no state to save or lose."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """[num_samples] the order of one epoch."""
    # RandomState's streams are frozen for good (NEP 19); default_rng's may change between numpy versions.
    return np.random.RandomState([seed, epoch]).permutation(num_samples)


class StepSampler:
    """Row numbers of any step, the same whatever came before and however many processes share it.

    Each epoch is a permutation of all rows keyed by (seed, epoch). Steps run on across the border of two
    epochs, so every batch is full and no row is dropped.
    """

    def __init__(self, num_samples: int, batch: int, seed: int) -> None:
        assert num_samples > 0 and batch > 0, "an empty mixture is refused by its reader, batch 0 by the recipe"
        self.num_samples, self.batch, self.seed = num_samples, batch, seed

    def visits(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
        """(epoch, row) of this rank's share of the global batch of ``step`` (counted from 0)."""
        if self.batch % world:
            raise RuntimeError(f"a batch of {self.batch} cannot be shared by {world} processes")
        share = self.batch // world
        first = step * self.batch + rank * share
        places = (divmod(position, self.num_samples) for position in range(first, first + share))
        return [(epoch, int(permutation(self.num_samples, self.seed, epoch)[place])) for epoch, place in places]

    def indices(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """The rows of ``visits``."""
        return [row for _, row in self.visits(step, rank, world)]

    def steps(self, epochs: float) -> int:
        """Optimizer steps that see every row ``epochs`` times (the last batch runs into the next epoch)."""
        return max(1, int(-(-self.num_samples * epochs // self.batch)))
