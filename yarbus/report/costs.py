"""What each variant trains, how long a step takes and how much memory it needs, from the records of its runs.

Step seconds are the median over the logged intervals of the last stage, without the first, which holds what is done
once; fewer than three of them say nothing. They were measured while other runs shared the machine, and say so: times
are compared only between variants whose runs had the machine to share with equally many others and equal threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from yarbus.core.errors import CheckpointError
from yarbus.report.contrasts import references_of
from yarbus.report.estimates import number
from yarbus.report.runs import Comparison, Row, Run

EYES = "vision"
LEAST_INTERVALS = 3
"""Of fewer logged intervals there is no median to trust."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One variant; None where the records do not say."""

    variant: str
    methods: dict[str, str]
    """Place -> method with its options, of the places in which variants differ."""
    rates: dict[str, Any]
    """Group -> highest learning rate, or what the recipe says of it, of the groups that train."""
    vision_declared: int | None
    """Parameters that the method of the vision tower says it trains; a paper's count."""
    vision_trained: int | None
    """Of these, the ones that a gradient reaches."""
    all_declared: int | None
    all_trained: int | None
    step_seconds: float | None
    peak_bytes: int | None
    jobs: list[int]
    """How many runs shared the machine while these ran; empty where it is not known of every run."""
    threads: list[int]


def last_stage(run: Run) -> str | None:
    """The stage that tells variants apart: the last of the recipe, else of those that have a curve."""
    names = list(run.recipe.get("stages") or {}) or list(run.curves)
    return names[-1] if names else None


def method_text(spec: Row, among: Sequence[Row]) -> str:
    """``covft[routing=merged]``: the method, with those of its options that others of its name set otherwise."""
    alike = [one for one in among if one.get("method") == spec.get("method")]
    options = [key for key in spec if key != "method" and any(one.get(key) != spec[key] for one in alike)]
    shown = ", ".join(f"{key}={spec[key]}" for key in options)
    return f"{spec.get('method')}[{shown}]" if shown else str(spec.get("method"))


def rate_text(rate: Any) -> str:
    """``0.0005``, or ``0.0005 (block_decay 0.9)`` for a rate that is more than a number."""
    if not isinstance(rate, dict):
        return f"{rate:g}"
    more = ", ".join(f"{key} {value}" for key, value in rate.items() if key != "peak" and value is not None)
    return f"{rate['peak']:g} ({more})" if more else f"{rate['peak']:g}"


def _rows(run: Run, stage: str | None) -> tuple[list[Row], dict[str, Any]]:
    """The plan's rows of a stage and the rates of the groups that train in it."""
    if not isinstance(run.plan, list):
        return [], {}
    try:
        plan = {plan["stage"]: plan for plan in run.plan}.get(stage) or run.plan[-1]
        return list(plan["rows"]), dict(plan["learning_rate"])
    except (KeyError, TypeError, IndexError) as error:
        why, fix = f"no plan: {type(error).__name__} {error}", "restore it, or remove it"
        raise CheckpointError("damaged record", where=run.folder / "plan.json", why=why, fix=fix) from None


def seconds_per_step(lines: Sequence[Row]) -> list[float]:
    """Seconds of one step in each logged interval but the first."""
    points = [(number(line.get("step")), number(line.get("wall_seconds"))) for line in lines]
    known = [(step, seconds) for step, seconds in points if step is not None and seconds is not None]
    return [(t - s) / (n - m) for (m, s), (n, t) in pairwise(known) if n > m and t > s]


def _peak(lines: Sequence[Row]) -> int | None:
    found = [int(value) for line in lines if (value := number(line.get("peak_bytes")))]
    return max(found, default=None)


def _total(rows: Sequence[Row], field: str, place: str | None = None) -> int | None:
    return sum(int(row[field]) for row in rows if place in (None, row["place"])) if rows else None


def _known(numbers: Sequence[Sequence[int]]) -> list[int]:
    """The different numbers of all runs; empty where one run does not say."""
    return sorted({one for some in numbers for one in some}) if all(numbers) else []


def _cost(variant: str, runs: Sequence[Run], methods: dict[str, str]) -> Cost:
    stages = {run.folder: last_stage(run) for run in runs}
    rows, rates = next((plan for run in runs if (plan := _rows(run, stages[run.folder]))[0]), ([], {}))
    lines = [run.curves.get(stages[run.folder] or "", []) for run in runs]
    seconds = [one for some in lines for one in seconds_per_step(some)]
    peaks = [peak for some in lines if (peak := _peak(some)) is not None]
    return Cost(
        variant=variant,
        methods=methods,
        rates=rates,
        vision_declared=_total(rows, "declared", EYES),
        vision_trained=_total(rows, "trained", EYES),
        all_declared=_total(rows, "declared"),
        all_trained=_total(rows, "trained"),
        step_seconds=median(seconds) if len(seconds) >= LEAST_INTERVALS else None,
        peak_bytes=max(peaks, default=None),
        jobs=_known([run.jobs for run in runs]),
        threads=_known([run.threads for run in runs]),
    )


def _compared(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Variant -> place -> method, of the places that do not hold the same in all."""
    trains: dict[str, dict[str, Row]] = {}
    for variant in comparison.variants:
        for run in comparison.runs_of(variant)[:1]:
            stage = (run.recipe.get("stages") or {}).get(last_stage(run)) or {}
            trains[variant] = dict(stage.get("train") or {})
    found: dict[str, dict[str, str]] = {variant: {} for variant in trains}
    for place in dict.fromkeys(place for train in trains.values() for place in train):
        specs = {variant: train.get(place, {"method": "frozen"}) for variant, train in trains.items()}
        if len({repr(spec) for spec in specs.values()}) > 1:
            for variant, spec in specs.items():
                found[variant][place] = method_text(spec, list(specs.values()))
    return found


def costs_of(comparison: Comparison) -> list[Cost]:
    """One entry for each variant that has a run; an entry that knows nothing is left out."""
    methods = _compared(comparison)
    found = [
        _cost(variant, runs, methods.get(variant, {}))
        for variant in comparison.variants
        if (runs := comparison.runs_of(variant))
    ]
    return [one for one in found if one.step_seconds is not None or one.all_trained is not None]


def reference_of(costs: Sequence[Cost]) -> Cost | None:
    """What ratios are taken to: ``frozen``, or the first variant."""
    names = references_of([one.variant for one in costs])
    return next((one for one in costs if one.variant in names[:1]), None)


def ratio(value: int | float | None, reference: int | float | None) -> float | None:
    """value / reference where both are known."""
    return value / reference if value is not None and reference else None


def step_ratio(one: Cost | None, reference: Cost | None) -> float | None:
    """Step time as a multiple of the reference's; None where jobs or threads are others, or not known of both."""
    if one is None or reference is None:
        return None
    shared = (one.jobs, one.threads)
    if shared != (reference.jobs, reference.threads) or any(len(numbers) != 1 for numbers in shared):
        return None
    return ratio(one.step_seconds, reference.step_seconds)
