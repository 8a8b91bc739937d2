"""The mean without each single task in turn: does the order of the variants hang on one benchmark?

CoVFT's own order of contexts and numbers of experts does (methods.md 10.2): MMVP, 150 pairs, decides it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yarbus.report.cells import MEAN, Line
from yarbus.report.contrasts import Contrast
from yarbus.report.estimates import listed

LEAST_TASKS = 3
"""Of two tasks each is the mean without the other."""
ROUNDING = 1e-9
"""Means that differ by less are equal: they are the same answers, added in another order."""


@dataclass(frozen=True, kw_only=True)
class WithoutOne:
    """The mean of the other tasks."""

    task: str
    means: dict[str, float]
    leaders: list[str]
    """The variants with the highest mean; several where they are equal."""
    turned: list[str]
    """Variants whose difference to the reference has another sign than on all tasks."""
    is_led_by_others: bool
    """None of those that lead on all tasks leads here."""


def leaders_of(means: Mapping[str, float]) -> list[str]:
    """Who has the highest mean; several where they are equal."""
    best = max(means.values())
    return [name for name, value in means.items() if best - value < ROUNDING]


def _sign(value: float) -> int:
    return 0 if abs(value) < ROUNDING else 1 if value > 0 else -1


def _differences(contrasts: Sequence[Contrast], reference: str, tasks: Sequence[str]) -> dict[str, float]:
    """Each variant's mean over these tasks of its paired differences; only where all of them are known."""
    found: dict[str, list[float]] = {}
    for one in contrasts:
        if one.reference == reference and one.task in tasks:
            found.setdefault(one.variant, []).append(one.difference.mean)
    return {name: sum(values) / len(values) for name, values in found.items() if len(values) == len(tasks)}


def _shared(lines: Sequence[Line]) -> tuple[list[Line], list[str]]:
    """Variants with an answer, and the lines that all of those have answered."""
    variants = [name for name in lines[0].cells if any(line.cells.get(name) for line in lines)] if lines else []
    return [line for line in lines if all(line.cells.get(name) for name in variants)], variants


def _means(lines: Sequence[Line], variants: Sequence[str]) -> dict[str, float]:
    values = {name: [cell.value for line in lines if (cell := line.cells[name])] for name in variants}
    return {name: sum(some) / len(some) for name, some in values.items()}


def leave_out(lines: Sequence[Line], contrasts: Sequence[Contrast], reference: str | None) -> list[WithoutOne]:
    """One entry for each task that counts in the mean; nothing for fewer than three tasks or for one variant."""
    shared, variants = _shared(lines)
    if len(shared) < LEAST_TASKS or len(variants) < 2:
        return []
    leaders = leaders_of(_means(shared, variants))
    tasks = [line.task for line in shared]
    whole = _differences(contrasts, reference, tasks) if reference else {}
    found = []
    for gone in tasks:
        rest = [line for line in shared if line.task != gone]
        means = _means(rest, variants)
        parts = _differences(contrasts, reference, [line.task for line in rest]) if reference else {}
        found.append(
            WithoutOne(
                task=gone,
                means=means,
                leaders=leaders_of(means),
                turned=[name for name in whole if _sign(parts[name]) * _sign(whole[name]) < 0],
                is_led_by_others=not set(leaders) & set(leaders_of(means)),
            )
        )
    return found


def _by_tasks(found: Sequence[WithoutOne], names: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], list[str]]:
    """Tasks -> what happens without each of them; ``names``: task -> what happens without it."""
    tasks_of: dict[str, list[str]] = {}
    for one in found:
        for name in names[one.task]:
            tasks_of.setdefault(name, []).append(one.task)
    grouped: dict[tuple[str, ...], list[str]] = {}
    for name, tasks in tasks_of.items():
        grouped.setdefault(tuple(tasks), []).append(name)
    return grouped


def hanging(found: Sequence[WithoutOne], contrasts: Sequence[Contrast], reference: str | None) -> str:
    """Names the tasks on which the order hangs, or says that there is none; empty for an empty table.

    A side is only told of variants whose difference on all tasks is clear of 0: of others it is chance.
    """
    if not found:
        return ""
    clear = {
        one.variant
        for one in contrasts
        if (one.task, one.reference) == (MEAN, reference) and not one.difference.includes_zero
    }
    led = _by_tasks(found, {one.task: [listed(one.leaders)] if one.is_led_by_others else [] for one in found})
    turned = _by_tasks(found, {one.task: [name for name in one.turned if name in clear] for one in found})
    parts = [f"without {listed(tasks, 'or')} {listed(names)} leads" for tasks, names in led.items()]
    for tasks, names in turned.items():
        verb = "changes its side" if len(names) == 1 else "change their side"
        parts.append(f"without {listed(tasks, 'or')} {listed(names)} {verb} of {reference}")
    if parts:
        return f"The order hangs on single tasks: {'; '.join(parts)}."
    side = f", and none that is clear of {reference} changes its side" if clear else ""
    return f"No single task decides: the leader stays the same whichever is left out{side}."
