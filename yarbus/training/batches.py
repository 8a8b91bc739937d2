"""Which rows a process reads when: the sampler's visits as the micro-batches of a DataLoader."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from yarbus.data.sampler import StepSampler


@dataclass(frozen=True)
class StepBatches:
    """Micro-batches of ``(epoch, row)`` from ``first_step`` on: a batch sampler that keeps nothing between steps.

    It has no length: Trainer then takes the stage as one epoch of ``max_steps`` steps, which is
    what a function of the step alone needs; epochs exist in the sampler only.
    """

    sampler: StepSampler
    micro_batch: int
    first_step: int
    num_steps: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.num_steps):
            visits = self.sampler.visits(step, self.rank, self.world)
            for start in range(0, len(visits), self.micro_batch):
                yield visits[start : start + self.micro_batch]


class Drawn(Dataset[tuple[Any, int, int]]):
    """The dataset asked with ``(epoch, row)``: gives ``(item, epoch, row)``."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, visit: tuple[int, int]) -> tuple[Any, int, int]:
        epoch, row = visit
        return self.dataset[row], epoch, row


@dataclass(frozen=True)
class ItemsOnly:
    """A collator for plain items, called with drawn ones."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, drawn: list[tuple[Any, int, int]]) -> Any:
        return self.collate([item for item, _, _ in drawn])
