"""A recipe's rows as batches on the model's device, for measurements outside of training."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from yarbus.core.recipe import Recipe
from yarbus.data.collate import Collator, context_text
from yarbus.data.sample import Sample


def on_device(model: nn.Module) -> nn.Module:
    """The model on the accelerator, where there is one."""
    return model.to(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else model


def numbered(samples: Sequence[Sample]) -> list[Sample]:
    """The same rows with ids that are unique over several sources."""
    return [replace(sample, id=f"{index}:{sample.id}") for index, sample in enumerate(samples)]


def picture_of(sample: Sample) -> str:
    """What the row shares with others that must not count twice: its scene, or else its picture."""
    return sample.group or str(sample.images[0] if sample.images else sample.id)


def batches_of(samples: Sequence[Sample], processor: Any, recipe: Recipe, batch: int) -> Iterator[dict[str, Any]]:
    """Labelled batches in the order given, rendered as training renders a row on a first visit."""
    collate = Collator(processor, train_turns=recipe.question.train_turns, seed=recipe.seed)
    for start in range(0, len(samples), batch):
        chosen = samples[start : start + batch]
        yield collate([(sample, 0, start + index) for index, sample in enumerate(chosen)])


def questions_of(samples: Sequence[Sample], recipe: Recipe) -> dict[str, str]:
    """What the eyes are told of each row in ``batches_of``, by the row's id."""
    turns, seed = recipe.question.train_turns, recipe.seed
    return {row.id: context_text(row, turns, seed, 0, place) or "" for place, row in enumerate(samples)}
