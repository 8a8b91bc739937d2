"""What the first steps of the other tasks do to a task, in units of what its own steps do to it."""

from typing import Any

from yarbus.report.estimates import Estimate, estimate, listed, number
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.strips import Group, Strip, axis_labels, in_figures, strips

Row = dict[str, Any]

LOOK = Look(["pull"], neutral=())


def _reading(pulls: dict[str, Estimate]) -> str:
    against = [task for task, value in pulls.items() if value.is_below(0.0)]
    along = [task for task, value in pulls.items() if value.is_above(0.0)]
    parts = [f"the others work against {listed(against)}"] if against else []
    parts += [f"they help {listed(along)}" if against else f"the others help {listed(along)}"] if along else []
    if not parts:
        return "No pull seen: the other tasks' steps clearly neither help nor hinder any task."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def pull_figure(gradients: Row | None) -> Figure | None:
    """The pull on every task as a dot with a whisker; None where it was not recorded."""
    rows = {str(row["task"]): row for row in (gradients or {}).get("by_task") or []}
    pulls = {task: value for task, row in rows.items() if (value := estimate(row.get("pull"))) is not None}
    if not pulls:
        return None
    ends = [end for value in pulls.values() for end in value.ends]
    marks = ticks(min(0.0, *ends), max(0.0, *ends), most=6)
    shares = {task: share for task, row in rows.items() if (share := number(row.get("share"))) is not None}
    some = [
        Strip(
            name=task,
            dots=[("pull", value)],
            note=f"{100 * shares[task]:.0f} % of the rows" if task in shares else "",
            text=in_figures(value, sign=True),
            is_open=not value.is_clear_of(0.0),
        )
        for task, value in pulls.items()
    ]
    return Figure(
        name="pull",
        title="What the other tasks' steps do to a task",
        reading=_reading(pulls),
        how="In units of what its own rows do, to first order: below 0 they undo its progress, above 0 they help. Rare "
        "tasks lie far out, since their own rows weigh little. Whiskers are 95 % intervals; grey includes 0.",
        body=strips([Group(title="", strips=some)], LOOK, marks, axis_labels(marks, sign=True), ""),
        header=["task", "share", "pull", "low", "high"],
        rows=[[task, shares.get(task), value.mean, value.low, value.high] for task, value in pulls.items()],
        classes="noted",
    )
