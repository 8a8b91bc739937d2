"""Routing while training: does the router ever leave the even mixture, and do the experts become different?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from yarbus.report.estimates import Estimate, listed, number
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.markup import join
from yarbus.report.plot import MAX_MARKED, Panel, Series, legend, panels

Row = dict[str, Any]
Curves = Mapping[str, Sequence[Sequence[Row]]]
"""Variant -> the lines of routing.jsonl of each of its seeds."""

ENTROPY, DISTANCE = "Entropy, percent of its maximum", "Distance between experts"


def _measures(block: Row) -> dict[str, float]:
    """What one block of one line says; what is null stays out."""
    entropy, most = number(block.get("entropy")), number(block.get("max_entropy"))
    distance = number(block.get("expert_distance"))
    found = {} if entropy is None or not most else {ENTROPY: 100 * entropy / most}
    return found if distance is None else {**found, DISTANCE: distance}


def _course(runs: Sequence[Sequence[Row]], measure: str, block: int | None = None) -> list[tuple[float, Estimate]]:
    """Mean over blocks (or of one block) and seeds, by step."""
    values: dict[float, list[float]] = defaultdict(list)
    for line in (line for lines in runs for line in lines):
        step = number(line.get("step"))
        for found in line.get("blocks") or []:
            value = _measures(found).get(measure)
            if step is not None and value is not None and block in (None, found.get("block")):
                values[step].append(value)
    return [(step, Estimate(sum(some) / len(some))) for step, some in sorted(values.items())]


def _reading(series: Sequence[Series]) -> str:
    ends = {one.name: one.points[-1][1].mean for one in series}
    sharp = [name for name, value in ends.items() if value < 5]
    flat = [name for name, value in ends.items() if value > 98]
    if not ends:
        return "No entropy was recorded: nothing here has a router that chooses."
    if len(flat) == len(ends):
        return f"No routing seen: at the last step every entropy is still above 98 % of its maximum ({_shown(ends)})."
    return (
        f"At the last step entropy is {_shown(ends)} of its maximum"
        + (f"; {listed(flat)} still mix{'es' if len(flat) == 1 else ''} evenly." if flat else ".")
        + (f" Each picture goes to a single expert in {listed(sharp)}." if sharp else "")
    )


def _shown(ends: Mapping[str, float]) -> str:
    if len(ends) == 1:
        return f"{next(iter(ends.values())):.0f} %"
    return ", ".join(f"{value:.0f} % ({name})" for name, value in ends.items())


def router_figure(curves: Curves, look: Look, stage: str) -> Figure | None:
    """Entropy and expert distance by step: by variant, or by block where there is one variant."""
    curves = {variant: runs for variant, runs in curves.items() if any(runs)}
    if not curves:
        return None
    blocks = sorted(
        {b["block"] for runs in curves.values() for lines in runs for line in lines for b in line.get("blocks") or []}
    )
    if len(curves) == 1:
        names = {f"block {block}": block for block in blocks}
        look, runs = Look(list(names), neutral=()), next(iter(curves.values()))
        courses = {
            m: [Series(name=n, points=_course(runs, m, b)) for n, b in names.items()] for m in (ENTROPY, DISTANCE)
        }
    else:
        courses = {
            m: [Series(name=v, points=_course(runs, m)) for v, runs in curves.items()] for m in (ENTROPY, DISTANCE)
        }
    courses = {measure: [one for one in some if one.points] for measure, some in courses.items()}
    shown = list(dict.fromkeys(one.name for some in courses.values() for one in some))
    if not shown:
        return None
    last = max(one.points[-1][0] for some in courses.values() for one in some)
    marks = ticks(0.0, last)
    levels = {ENTROPY: {100.0: "even mixture"}, DISTANCE: {0.0: ""}}
    drawn = [
        Panel(title=measure, series=some, x_title="step", x_marks=marks, levels=levels[measure])
        for measure, some in courses.items()
        if some
    ]
    is_dashed = any(len(one.points) > MAX_MARKED for some in courses.values() for one in some)
    over = ["mean over blocks"] if len(curves) > 1 and len(blocks) > 1 else []
    seeds = max(len(runs) for runs in curves.values())
    over += [f"mean over {seeds} seeds"] if seeds > 1 else []
    fixed = [name for name in shown if name not in {one.name for one in courses[ENTROPY]}]
    without = f" {listed(fixed)}: no router that chooses, so no entropy." if fixed else ""
    return Figure(
        name=f"router-{stage}",
        title=f"Routing while training, stage {stage}",
        reading=_reading(courses[ENTROPY]),
        how=(f"{', '.join(over).capitalize()}. " if over else "")
        + "Measured on a fixed set of training rows; distance is relative to the experts' mean weights."
        + without,
        body=join([legend([(name, "") for name in shown], look, dashed=is_dashed), panels(drawn, look)]),
        header=["stage", "measure", "name", "step", "value"],
        rows=[
            [stage, measure, one.name, int(step), value.mean]
            for measure, some in courses.items()
            for one in some
            for step, value in one.points
        ],
    )
