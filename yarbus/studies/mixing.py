"""The weights of a CARPE head on benchmark questions, and whether pictures have a say in them.

Each question is asked a second time with the picture of another row. Weights that read words alone stay equal to the
last bit; how far the others move is recorded.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from yarbus.analysis.mixing import answer_weights, mixing_record
from yarbus.core.errors import ConfigError
from yarbus.core.progress import progress_of
from yarbus.data.collate import prompt_batch
from yarbus.data.sample import Sample
from yarbus.methods.carpe import CarpeHead
from yarbus.methods.head import MODULE
from yarbus.studies.measuring import picture_of
from yarbus.studies.swapped import choose

RULE = (
    "vision_weight: w_v where the answer begins; other_picture: the same questions, as many pictures of other rows. "
    "Questions are chosen by a hash of their ids."
)


def mixing_head(model: nn.Module) -> CarpeHead | None:
    """The head that mixes; None where there is none."""
    head = getattr(model.base_model, MODULE, None)
    return head if isinstance(head, CarpeHead) else None


def with_other_pictures(samples: Sequence[Sample]) -> list[Sample | None]:
    """Each question with the next different pictures of a question that has as many; None where there are none."""
    by_count = defaultdict(list)
    for place, sample in enumerate(samples):
        by_count[len(sample.images)].append(place)
    found: list[Sample | None] = [None] * len(samples)
    for places in by_count.values():
        for rank, place in enumerate(places):
            following = places[rank + 1 :] + places[:rank]
            other = next((one for one in following if samples[one].images != samples[place].images), None)
            if other is not None:
                found[place] = replace(samples[place], images=samples[other].images)
    return found


def mixing_weights(
    model: nn.Module,
    processor: Any,
    names: Sequence[str],
    *,
    per_task: int = 120,
    batch: int = 64,
    protocol: str = "official",
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """The record mixing.json: ``w_v`` by task with its spread, and what another picture changes of it.

    Raises ``ConfigError`` for a model without a head that mixes, and where no question has a picture.
    """
    head = mixing_head(model)
    if head is None:
        raise ConfigError(
            "nothing is mixed in this model", why="it has no carpe head", fix="name a run trained with head: carpe"
        )
    samples = [sample for sample, _ in choose(names, per_task, protocol)]
    if not samples:
        raise ConfigError("no question with a picture", where=", ".join(names), fix="name other benchmarks")
    others = with_other_pictures(samples)
    shown = [place for place, other in enumerate(others) if other is not None]
    # Rows without another picture stay in their batches: nothing but pictures may differ between the passes.
    swapped = [other or sample for sample, other in zip(samples, others, strict=True)]
    was_training = model.training
    model.eval()
    try:
        with progress_of("mixing weights", 2 * len(samples), progress) as advance:
            weights = _weights(model, processor, samples, batch, advance)
            moved = _weights(model, processor, swapped, batch, advance)
    finally:
        model.train(was_training)
    groups, tasks = [picture_of(sample) for sample in samples], [str(sample.task) for sample in samples]
    change = np.abs(moved - weights)[shown] if shown else None
    return {
        "weighting": head.method.weighting,
        "context_pass": head.method.context_pass,
        **mixing_record(weights, tasks, groups, seed),
        "other_picture": {
            "n": len(shown),
            "largest_change": None if change is None else float(change.max()),
            "mean_change": None if change is None else float(change.mean()),
        },
        "rule": RULE,
    }


@torch.no_grad()
def _weights(
    model: nn.Module, processor: Any, samples: Sequence[Sample], batch: int, advance: Callable[[int], None]
) -> np.ndarray:
    """``w_v`` of each question."""
    found = []
    for start in range(0, len(samples), batch):
        rows = samples[start : start + batch]
        tensors = prompt_batch(processor, rows)
        device = next(model.parameters()).device
        with model.base_model.context_slot.recording() as recorder:  # type: ignore[union-attr, operator]
            model(**{name: value.to(device) for name, value in tensors.items() if torch.is_tensor(value)})
        found.append(answer_weights(recorder))
        advance(len(rows))
    return np.concatenate(found) if found else np.zeros(0)
