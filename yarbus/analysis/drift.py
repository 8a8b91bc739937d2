"""Where training moved the vision blocks: cosine and distance of weight changes, with a same-task control.

The paper's curve (Fig. 1c, methods.md 9.1) is the L2 distance between towers tuned on two tasks. About nine tenths of
it is order of data and optimiser: two runs of *one* task are nearly as far apart (world.md 5). So the distance is
never given without that control, and the cosine of the changes is what to read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

LEAST_PAIRS = 3
"""Pairs of runs below which no interval is made."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one short run on one task did to one block."""

    task: str
    seed: int
    delta: Float[np.ndarray, " parameters"]
    """Weights after minus weights before, all parameters of the block in one fixed order."""


def cosine(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Cosine of two changes; NaN where one of them is zero."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a, b)) / lengths if lengths else float("nan")


@dataclass(frozen=True)
class Pair:
    """Two runs compared in one block."""

    tasks: tuple[str, str]
    cosine: float
    distance: float


def pairs_of(changes: Sequence[Change]) -> list[Pair]:
    """Every two runs, but for those of different tasks that share a seed.

    Those saw the same initial dropout and order keys; a control under another seed is the like comparison.
    """
    return [
        Pair((a.task, b.task), cosine(a.delta, b.delta), float(np.linalg.norm(a.delta - b.delta)))
        for a, b in combinations(changes, 2)
        if a.seed != b.seed
    ]


@dataclass(frozen=True)
class _Mean:
    """Mean over pairs of runs with Student's interval, which stays honest where pairs are few.

    Pairs of different tasks share runs, which it ignores; simulated runs of three to seven tasks had the truth in 91
    to 97 of 100 such intervals (drawing pairs with replacement: 69 to 93).
    """

    mean: float | None
    error: float | None = None
    """Standard error; None for fewer than three pairs."""
    count: int = 0

    def estimate(self, limit: float = 1.0) -> dict[str, float | None]:
        """The record's form; no end lies beyond ``limit``."""
        if self.mean is None or self.error is None:
            return {"mean": self.mean, "low": None, "high": None}
        half = float(student.ppf(0.975, self.count - 1)) * self.error
        return {"mean": self.mean, "low": max(-limit, self.mean - half), "high": min(limit, self.mean + half)}


def _mean(values: Sequence[float]) -> _Mean:
    """Over the values that are numbers: a change of nothing has no direction."""
    known = [value for value in values if isfinite(value)]
    if not known:
        return _Mean(None)
    error = float(np.std(known, ddof=1)) / sqrt(len(known)) if len(known) >= LEAST_PAIRS else None
    return _Mean(float(np.mean(known)), error, len(known))


def _ratio(across: _Mean, same: _Mean) -> dict[str, float | None]:
    """across / same, errors carried over to first order; nothing where the control is not clear of 0."""
    low = same.estimate()["low"]
    if across.mean is None or same.mean is None or (same.mean if low is None else low) <= 0:
        return {"mean": None, "low": None, "high": None}
    ratio = across.mean / same.mean
    if across.error is None or same.error is None:
        return _Mean(ratio).estimate()
    error = sqrt(across.error**2 + (ratio * same.error) ** 2) / abs(same.mean)
    return _Mean(ratio, error, min(across.count, same.count)).estimate(np.inf)


def _line(block: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    distances = [pair.distance for pair in pairs]
    return {
        "block": block,
        "cosine": _mean([pair.cosine for pair in pairs]).estimate(),
        "l2": float(np.mean(distances)) if distances else None,
    }


def drift(by_block: Mapping[int, Sequence[Change]], *, steps: int, rate: float) -> dict[str, Any]:
    """The record ``drift`` of conflict.json, from the changes of short single-task runs, two seeds of each task.

    Every block holds the same runs in the same order. Intervals are over pairs of runs, never over blocks. ``overall``
    is each pair's mean over blocks; ``ratio`` is across divided by same task, the share of the reachable agreement.
    """
    tasks = list(dict.fromkeys(change.task for change in next(iter(by_block.values()))))
    pairs = {block: pairs_of(changes) for block, changes in by_block.items()}
    whole = [
        (set(some[0].tasks), _mean([pair.cosine for pair in some]).mean) for some in zip(*pairs.values(), strict=True)
    ]
    known = [(names, value) for names, value in whole if value is not None]
    across, same = (_mean([value for names, value in known if len(names) == size]) for size in (2, 1))
    cells = [[_mean([value for names, value in known if names == {a, b}]).mean for b in tasks] for a in tasks]
    return {
        "steps": steps,
        "rate": rate,
        "blocks": list(by_block),
        "tasks": tasks,
        "across": [_line(block, [p for p in some if p.tasks[0] != p.tasks[1]]) for block, some in pairs.items()],
        "same_task": [_line(block, [p for p in some if p.tasks[0] == p.tasks[1]]) for block, some in pairs.items()],
        "overall": {"across": across.estimate(), "same_task": same.estimate(), "ratio": _ratio(across, same)},
        "matrix": {"tasks": tasks, "cosine": cells},
    }
