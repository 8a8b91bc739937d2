"""Which rows make up optimizer step k: a function of seed and step, with no state to save or lose.

Most rows fill the batches in passes: each pass is a permutation of all of them. Rows with a *share* have so many places
in every batch, and are drawn anew for each pass of the others (CARPE, section 4.1: 1 picture to classify for 7 rows of
instructions, about 95 of each class in a pass; that a pass draws them anew, without replacement, is ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from yarbus.core.shares import shared_places


@lru_cache(maxsize=4)
def permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """[num_samples] the order of one epoch."""
    # RandomState's streams are frozen for good (NEP 19); default_rng's may change between numpy versions.
    return np.random.RandomState([seed, epoch]).permutation(num_samples)


@dataclass(frozen=True, eq=False)
class SharedRows:
    """Rows that have a share of every batch, by class: all classes come equally often."""

    share: float
    classes: tuple[np.ndarray, ...]
    """Row numbers of each class; one class where rows have none."""


@lru_cache(maxsize=8)
def drawn(shared: SharedRows, number: int, seed: int, epoch: int, amount: int) -> np.ndarray:
    """[amount] the rows of one epoch, in order: of each class as many as of any other, give or take one.

    No row comes a second time before its whole class has come once. ``number`` tells sources of one seed apart.
    """
    random = np.random.RandomState([seed, epoch, 1 + number])
    each, left = divmod(amount, len(shared.classes))
    has_one_more = np.zeros(len(shared.classes), dtype=bool)
    has_one_more[random.permutation(len(shared.classes))[:left]] = True
    chosen = [np.empty(0, dtype=np.int64)]
    for rows, one_more in zip(shared.classes, has_one_more, strict=True):
        wanted = each + int(one_more)
        while wanted > 0:
            chosen.append(random.permutation(rows)[:wanted])
            wanted -= len(chosen[-1])
    return random.permutation(np.concatenate(chosen))


class StepSampler:
    """Row numbers of any step, the same whatever came before and however many processes share it.

    Each epoch is a permutation of all rows without a share, keyed by (seed, epoch). Steps run on across the border of
    two epochs, so every batch is full and no row is dropped. Rows with a share are spread evenly over the batch, so
    that every process and micro-batch has its part of them.
    """

    def __init__(self, num_samples: int, batch: int, seed: int, shared: Sequence[SharedRows] = ()) -> None:
        assert num_samples > 0 and batch > 0, "an empty mixture is refused by its reader, batch 0 by the recipe"
        self.num_samples, self.batch, self.seed, self.shared = num_samples, batch, seed, tuple(shared)
        has_share = np.zeros(num_samples, dtype=bool)
        for source in self.shared:
            has_share[np.concatenate(source.classes)] = True
        self.others = np.flatnonzero(~has_share)
        self.places = [_places(batch, source.share) for source in self.shared]
        self.other_places = batch - sum(self.places)
        assert len(self.others) and self.other_places > 0, "the recipe leaves rows and places without a share"

    def visits(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
        """(epoch, row) of this rank's part of the global batch of ``step`` (counted from 0)."""
        if self.batch % world:
            raise RuntimeError(f"a batch of {self.batch} cannot be shared by {world} processes")
        part = self.batch // world
        return self._batch(step)[rank * part : (rank + 1) * part]

    def _batch(self, step: int) -> list[tuple[int, int]]:
        groups = [self._others(step), *(self._shared(number, step) for number in range(len(self.shared)))]
        placed = [
            ((2 * place + 1) / len(visits), number, visit)
            for number, visits in enumerate(groups)
            for place, visit in enumerate(visits)
        ]
        return [visit for _, _, visit in sorted(placed, key=lambda one: one[:2])]

    def _others(self, step: int) -> list[tuple[int, int]]:
        first, size = step * self.other_places, len(self.others)
        visits = []
        for position in range(first, first + self.other_places):
            epoch, place = divmod(position, size)
            visits.append((epoch, int(self.others[permutation(size, self.seed, epoch)[place]])))
        return visits

    def _shared(self, number: int, step: int) -> list[tuple[int, int]]:
        """Epochs end where those of the other rows do, to within a row."""
        count = self.places[number]
        visits = []
        for position in range(step * count, (step + 1) * count):
            epoch = position * self.other_places // (len(self.others) * count)
            first, end = self._first(number, epoch), self._first(number, epoch + 1)
            rows = drawn(self.shared[number], number, self.seed, epoch, end - first)
            visits.append((epoch, int(rows[position - first])))
        return visits

    def _first(self, number: int, epoch: int) -> int:
        """The first position of an epoch among all rows that one source ever gives."""
        return -(-epoch * len(self.others) * self.places[number] // self.other_places)

    def indices(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """The rows of ``visits``."""
        return [row for _, row in self.visits(step, rank, world)]

    def steps(self, epochs: float) -> int:
        """Optimizer steps that see every row without a share ``epochs`` times (the last batch runs into the next)."""
        return max(1, int(-(-len(self.others) * epochs // self.other_places)))

    def epochs(self, steps: int) -> float:
        """Passes over the rows without a share after so many steps."""
        return steps * self.other_places / len(self.others)


def _places(batch: int, share: float) -> int:
    places = shared_places(batch, share)
    assert places is not None, "the recipe refuses a share that is no whole number of rows"
    return places
