"""Which row, question and picture stands behind each image that a model was observed on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from yarbus.data.sample import Sample
from yarbus.data.stored import Picture
from yarbus.report.intervals import bootstrap_mean

Record = dict[str, Any]
"""Plain values, ready for JSON."""


class UndefinedError(ValueError):
    """A figure that these points do not define, and why; a record then says null and the reason."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One image that the tower saw, and what it was asked."""

    id: str
    """Of the row; a row with several pictures is looked at several times."""
    task: str
    question: str
    picture: Picture | None
    """None where one row's images cannot be told apart."""
    group: str
    """What must not count twice: the scene, or else the picture."""


def looks_of(
    sample_ids: Sequence[str],
    samples: Mapping[str, Sample],
    labels: Mapping[str, str],
    questions: Mapping[str, str] | None = None,
) -> list[Look]:
    """The observed images in their order. ``samples``, ``labels`` and ``questions`` go by the row's id.

    ``questions``: what the eyes were told; without it all that the user says, which for one turn is the same. A
    row's n-th image is its n-th picture, so each row must have been observed once.
    """
    times, seen = Counter(sample_ids), Counter[str]()
    looks = []
    for name in sample_ids:
        sample = samples[name]
        picture = None
        if len(sample.images) == 1:
            picture = sample.images[0]  # also where one picture reached the tower as several tiles
        elif len(sample.images) == times[name]:
            picture = sample.images[seen[name]]
        seen[name] += 1
        asked = "\n".join(turn.words for turn in sample.turns if turn.role == "user")
        question = asked if questions is None else questions[name]
        group = sample.group or str(picture or name)
        looks.append(Look(id=name, task=labels[name], question=question, picture=picture, group=group))
    return looks


def array(values: Tensor) -> Float[np.ndarray, "*axes"]:
    """The tensor's numbers in double precision."""
    return values.detach().cpu().double().numpy()


def estimate(values: Sequence[float] | Float[np.ndarray, " values"], groups: Sequence[str], seed: int = 0) -> Record:
    """Mean with its 95 % bootstrap interval over groups; null ends for a single group, null for no value."""
    if len(values) == 0:
        return {"mean": None, "low": None, "high": None}
    found = bootstrap_mean([float(value) for value in values], groups, seed)
    if len(set(groups)) < 2:
        return {"mean": found.mean, "low": None, "high": None}
    return {"mean": found.mean, "low": found.low, "high": found.high}
