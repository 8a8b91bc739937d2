"""What sharing the tower costs a task and what tuning it brings, measured by short runs on held-out rows."""

from typing import Any

from yarbus.report.estimates import Estimate, decimal, estimate, listed, number
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.strips import Group, Strip, axis_labels, in_figures, strips

Row = dict[str, Any]

SIDES = {"gap": ("What sharing costs", "mix", "alone"), "gain": ("What tuning brings", "frozen", "mix")}
"""Key of an estimate -> title, and the two losses of which it is the difference."""
LOOK = Look(list(SIDES), neutral=())


def _is(names: list[str]) -> str:
    return f"{listed(names)} {'is' if len(names) == 1 else 'are'}"


def _reading(gaps: dict[str, Estimate]) -> str:
    worse = [task for task, gap in gaps.items() if gap.is_above(0.0)]
    better = [task for task, gap in gaps.items() if gap.is_below(0.0)]
    parts = [f"{_is(worse)} worse off in the mix than alone"] if worse else []
    parts += [f"{_is(better)} better off in the mix"] if better else []
    if not parts:
        return "No cost of sharing seen: no task is clearly better or worse off in the mix than alone."
    rest = len(gaps) - len(worse) - len(better)
    parts += [f"{rest} of {len(gaps)} not separated"] if rest else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _note(row: Row, key: str) -> str:
    """The two losses of which the estimate is the difference."""
    known = [(name, value) for name in SIDES[key][1:] if (value := number(row.get(name))) is not None]
    return ", ".join(f"{name} {decimal(value, 3)}" for name, value in known)


def gap_figure(record: Row | None) -> Figure | None:
    """Cost and gain of every task as dots with whiskers; None where no short run was made."""
    rows = {str(task): row for task, row in ((record or {}).get("tasks") or {}).items()}
    found = {
        key: {task: value for task, row in rows.items() if (value := estimate(row.get(key))) is not None}
        for key in SIDES
    }
    if not found["gap"]:
        return None
    assert record is not None
    ends = [end for some in found.values() for value in some.values() for end in value.ends]
    marks = ticks(min(0.0, *ends), max(0.0, *ends), most=6)
    groups = [
        Group(
            title=SIDES[key][0],
            strips=[
                Strip(
                    name=task,
                    dots=[(key, value)],
                    note=_note(rows[task], key),
                    text=in_figures(value, 3, sign=True),
                    is_open=not value.is_clear_of(0.0),
                )
                for task, value in some.items()
            ],
        )
        for key, some in found.items()
        if some
    ]
    size = [f"{record['steps']:g} steps on the mixture"] if number(record.get("steps")) is not None else []
    size += [f"{record['seeds']} seeds"] if record.get("seeds") else []
    length = f"Short runs of {', '.join(size)}, equal questions. " if size else ""
    tuning = " Tuning is frozen minus tuned: right of zero it helps." if found["gain"] else ""
    unit = str(record.get("unit") or "")
    return Figure(
        name="cost-of-sharing",
        title="What sharing the tower costs" + (f", in {unit}" if unit else ""),
        reading=_reading(found["gap"]),
        how=f"{length}Sharing is mix minus alone: right of zero it costs the task something.{tuning} "
        "Whiskers are 95 % intervals; grey includes 0.",
        body=strips(groups, LOOK, marks, axis_labels(marks, sign=True), "loss"),
        header=["task", "measure", "mean", "low", "high", "alone", "mix", "frozen"],
        rows=[
            [
                task,
                key,
                value.mean,
                value.low,
                value.high,
                *(number(rows[task].get(k)) for k in ("alone", "mix", "frozen")),
            ]
            for key, some in found.items()
            for task, value in some.items()
        ],
        classes="noted",
    )
