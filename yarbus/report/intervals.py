"""How far a number can be trusted: Wilson intervals, paired cluster bootstrap, p values and their correction.

Questions about one scene share its picture, so they are drawn together (a *group*). Training seeds
are a second source of chance: every seed answers the same scenes, the two are crossed, and so seeds
and scenes are drawn independently of each other (Owen 2007, "The pigeonhole bootstrap"). Crossed
draws are cautious: with several seeds, luck alone looks like a difference less often than p says.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Interval:
    """Ends of a 95 % interval, in the unit of the value it belongs to."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A mean with the ends of its 95 % bootstrap interval; fractions, so 0.01 is one point."""

    mean: float
    low: float
    high: float
    p: float | None = None
    """Two-sided, from the same draws and never below 2 / (draws + 1); None in records older than it."""

    @property
    def includes_zero(self) -> bool:
        """Nothing was separated: 0 lies within the interval, ends included."""
        return self.low <= 0.0 <= self.high


def wilson(k: int | float, n: int) -> Interval:
    """95 % interval of a fraction of which ``k`` in ``n`` trials were seen (Wilson 1927, no continuity correction).

    ``k`` may be a mean over seeds and then need not be whole. Without a trial nothing is known: [0, 1].
    """
    if not 0 <= k <= n:
        raise ValueError(f"k must lie in [0, n], found k = {k}, n = {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    fraction = k / n
    centre = fraction + Z95**2 / (2 * n)
    half = Z95 * sqrt(fraction * (1 - fraction) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    low = 0.0 if k == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if k == n else min(1.0, (centre + half) / scale)
    return Interval(low, high)


def _codes(labels: Sequence[Hashable] | None, count: int) -> tuple[NDArray[np.int64], int]:
    """Labels as 0, 1, 2, ... in order of appearance, and how many there are; None is one label for all."""
    if labels is None:
        return np.zeros(count, dtype=np.int64), 1
    if len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} values")
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(label, len(index)) for label in labels], dtype=np.int64), len(index)


def holm(values: Sequence[float]) -> list[float]:
    """p values of one family, corrected so that the chance of any false claim among them stays below the level.

    Holm 1979: the smallest counts as often as the family is large, the next one time less, none less than one before.
    """
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected, highest = [1.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def _two_sided(means: NDArray[np.float64]) -> float:
    """Twice the rarer side's share of the draws, 0 counted on both; one draw more than seen, so that none is 0."""
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(means) + 1))


Draw = tuple[NDArray[Any], NDArray[np.int64]]
"""How often each group and each seed was drawn: ``[draws, groups]`` and ``[draws, seeds]``."""


@lru_cache(maxsize=2)
def _drawn(seed: int, draws: int, num_groups: int, num_runs: int) -> tuple[Draw, ...]:
    """The draws in parts that bound memory. All differences between variants on one task take the same ones."""
    generator = np.random.default_rng(seed)
    size, parts = max(1, min(draws, 2_000_000 // num_groups)), []
    kind = np.uint8 if num_groups < 256 else np.uint16 if num_groups < 65_536 else np.uint32
    for start in range(0, draws, size):
        number = min(size, draws - start)
        of_group = generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=number).astype(kind)
        of_run = generator.multinomial(max(1, num_runs - 1), np.full(num_runs, 1 / num_runs), size=number)
        parts.append((of_group, of_run))
    return tuple(parts)


def paired_bootstrap(
    a: Sequence[int | float],
    b: Sequence[int | float],
    groups: Sequence[Hashable] | None,
    seed: int = 0,
    draws: int = 2000,
    *,
    seeds: Sequence[Hashable] | None = None,
    tasks: Sequence[Hashable] | None = None,
) -> Difference:
    """Mean of ``a - b`` with a 95 % percentile interval and a p value; entry i of both is one question under one seed.

    ``groups`` (scenes) are drawn with replacement, all their questions together; None draws questions.
    ``seeds`` names the training seed of each entry: S seeds are redrawn S - 1 at a time, which makes the
    bootstrap's variance unbiased at so few (Rao and Wu 1988). With one seed, chance in training is not covered.
    ``tasks`` names the task of each entry: the mean is then the plain mean over tasks, whatever their sizes.
    """
    count = len(a)
    if len(b) != count:
        raise ValueError(f"{count} values of a, {len(b)} of b: the two are not paired")
    if count == 0:
        raise ValueError("no values to compare")
    group, num_groups = _codes(range(count) if groups is None else groups, count)
    run, num_runs = _codes(seeds, count)
    task, num_tasks = _codes(tasks, count)

    totals = np.zeros((num_groups, num_runs, num_tasks))
    counts = np.zeros_like(totals)
    np.add.at(totals, (group, run, task), np.asarray(a, dtype=float) - np.asarray(b, dtype=float))
    np.add.at(counts, (group, run, task), 1.0)
    mean = float((totals.sum((0, 1)) / counts.sum((0, 1))).mean())

    flat_totals, flat_counts = totals.reshape(num_groups, -1), counts.reshape(num_groups, -1)
    means = []
    for of_group, of_run in _drawn(seed, draws, num_groups, num_runs):
        times, shape = of_group.astype(float), (len(of_group), num_runs, num_tasks)
        drawn = ((times @ flat_totals).reshape(shape) * of_run[..., None]).sum(1)
        number = ((times @ flat_counts).reshape(shape) * of_run[..., None]).sum(1)
        seen = number > 0
        per_task = np.divide(drawn, number, out=np.zeros_like(drawn), where=seen)
        means.append((per_task.sum(1) / np.maximum(seen.sum(1), 1))[seen.any(1)])
    drawn_means = np.concatenate(means).round(12)  # what cancels is 0, and not what rounding leaves of it
    low, high = np.quantile(drawn_means, [0.025, 0.975])
    return Difference(mean, float(low), float(high), _two_sided(drawn_means))


def bootstrap_mean(
    values: Sequence[int | float],
    groups: Sequence[Hashable] | None,
    seed: int = 0,
    draws: int = 2000,
    *,
    seeds: Sequence[Hashable] | None = None,
    tasks: Sequence[Hashable] | None = None,
) -> Difference:
    """Mean of ``values`` with a 95 % interval, drawn as in :func:`paired_bootstrap`."""
    return paired_bootstrap(values, np.zeros(len(values)).tolist(), groups, seed, draws, seeds=seeds, tasks=tasks)
