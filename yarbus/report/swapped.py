"""The swapped-question test: what a model loses when its tower hears another question than the one it must answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from yarbus.report.estimates import Estimate, estimate, listed, number, over_seeds, scaled, words
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.markup import join, tag
from yarbus.report.plot import legend
from yarbus.report.strips import Group, Strip, axis_labels, in_figures, strips

Row = dict[str, Any]
Records = Mapping[str, Sequence[Row]]
"""Variant -> the record of each of its seeds."""

OWN, SAME, OTHER = "its own question", "another question of the same task", "a question of another task"
KEYS = {OWN: "own", SAME: "same_task", OTHER: "other_task"}
LOOK = Look([OWN, SAME, OTHER], neutral=(OWN,))
LOSSES = {SAME: "loss_same_task", OTHER: "loss_other_task"}


def _points(values: Sequence[object]) -> Estimate | None:
    """The mean over seeds, in points."""
    found = over_seeds([estimate(value) for value in values])
    return None if found is None else scaled(found, 100)


def _loss(records: Sequence[Row], kind: str, task: str | None = None) -> Estimate | None:
    rows = [(record.get("tasks") or {}).get(task) or {} if task else record.get("mean") or {} for record in records]
    return _points([row.get(LOSSES[kind]) for row in rows])


def _claim(records: Sequence[Row]) -> str:
    """What the losses of one variant say: a key of ``CLAIMS``."""
    other, same = _loss(records, OTHER), _loss(records, SAME)
    if other is None:
        return "unasked"
    if other.low is None:
        return "unknown"
    if other.is_above(0.0):
        return "uses"
    return "words" if same is not None and same.is_above(0.0) else "none"


CLAIMS = {
    "uses": "{names} {use} what the tower hears",
    "words": "{names} {use} the question but not its task",
    "none": "{names} {show} no use of the question",
    "unknown": "{names}: without an interval nothing is claimed",
    "unasked": "{names}: no question of another task was put to the tower",
}


def _reading(records: Records) -> str:
    """Who uses the question; with the figures where there is one variant."""
    found: dict[str, list[str]] = {}
    for variant, some in records.items():
        found.setdefault(_claim(some), []).append(variant)
    claims = [
        text.format(
            names=listed(names), use="uses" if len(names) == 1 else "use", show="shows" if len(names) == 1 else "show"
        )
        for claim, text in CLAIMS.items()
        if (names := found.get(claim))
    ]
    figures = ""
    if len(records) == 1:
        (some,) = records.values()
        other, same = _loss(some, OTHER), _loss(some, SAME)
        parts = [f"a question of another task costs {words(other, 1)} points"] if other else []
        parts += [f"another of the same task {'' if other else 'costs '}{words(same, 1)}"] if same else []
        figures = f"; {', '.join(parts)}" if parts else ""
    return f"{'; '.join(claims)}{figures}."


def loss_figure(records: Records, look: Look) -> Figure | None:
    """The mean loss of every variant, for both kinds of wrong question."""
    found = {
        (kind, variant): value
        for kind in LOSSES
        for variant, some in records.items()
        if (value := _loss(some, kind)) is not None
    }
    if not found:
        return None
    ends = [end for value in found.values() for end in value.ends]
    marks = ticks(min(0.0, *ends), max(0.0, *ends))
    groups = [
        Group(
            title=f"Heard {kind}",
            strips=[
                Strip(
                    name=variant,
                    dots=[(variant, value)],
                    text=in_figures(value, 1, sign=True),
                    is_open=not value.is_clear_of(0.0),
                )
                for (of, variant), value in found.items()
                if of == kind
            ],
        )
        for kind in LOSSES
    ]
    return Figure(
        name="swapped",
        title="Lost with the wrong question, in points",
        reading=_reading(records),
        how=_how(records),
        body=strips([g for g in groups if g.strips], look, marks, axis_labels(marks, sign=True), "points"),
        header=["heard", "variant", "loss_points", "low", "high"],
        rows=[[kind, variant, value.mean, value.low, value.high] for (kind, variant), value in found.items()],
    )


def _how(records: Records) -> str:
    first = next((some[0] for some in records.values() if some), {})
    rule = f" {first['rule']}" if first.get("rule") else ""
    seeds = max((len(some) for some in records.values()), default=0)
    over = (
        f" Means over {seeds} seeds; whiskers cover the choice of questions, not the luck of a seed."
        if seeds > 1
        else ""
    )
    return f"Mean of tasks, own question minus wrong one; whiskers are 95 % intervals, grey includes 0.{over}{rule}"


def tasks_figure(variant: str, records: Sequence[Row]) -> Figure | None:
    """Accuracy of one variant by task, with its own and with both kinds of wrong question."""
    tasks = list(dict.fromkeys(task for record in records for task in record.get("tasks") or {}))
    some, rows = [], []
    for task in tasks:
        shares = {
            kind: value
            for kind, key in KEYS.items()
            if (value := _points([((record.get("tasks") or {}).get(task) or {}).get(key) for record in records]))
        }
        losses = {kind: loss for kind in LOSSES if (loss := _loss(records, kind, task)) is not None}
        if not shares:
            continue
        lines = [tag("div", LOOK.marker(kind), " ", in_figures(loss, 1, sign=True)) for kind, loss in losses.items()]
        some.append(
            Strip(
                name=task,
                dots=list(shares.items()),
                text=join(lines),
                is_open=not any(loss.is_clear_of(0.0) for loss in losses.values()),
            )
        )
        for kind, value in shares.items():
            loss = losses.get(kind)
            rows.append([variant, task, kind, value.mean, *((loss.mean, loss.low, loss.high) if loss else (None,) * 3)])
    if not some:
        return None
    hurt = [task for task in tasks if (loss := _loss(records, OTHER, task)) is not None and loss.is_above(0.0)]
    reading = (
        f"A question of another task clearly costs {len(hurt)} of {len(tasks)} tasks something."
        if hurt
        else "No task clearly loses anything with a question of another task."
    )
    marks = [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    size = next((number(row.get("n")) for record in records for row in (record.get("tasks") or {}).values()), None)
    return Figure(
        name=f"swapped-{variant}",
        title=f"Accuracy of {variant} by what its tower hears, in percent",
        reading=reading,
        how="On the right the loss in points with its 95 % interval."
        + (f" {size:.0f} questions per task." if size else ""),
        body=join(
            [
                legend([(kind, "") for kind in KEYS], LOOK),
                strips([Group(title="", strips=some)], LOOK, marks, axis_labels(marks), "percent"),
            ]
        ),
        header=["variant", "task", "heard", "accuracy_percent", "loss_points", "low", "high"],
        rows=rows,
        classes="tall",
    )


def swapped_figures(records: Records, look: Look) -> list[Figure | None]:
    """The losses of all variants together, then each variant by task; a lone run's tasks say it all."""
    return [loss_figure(records, look), *(tasks_figure(variant, some) for variant, some in records.items())]
