"""Curves of training loss by step, in HTML that fits any width: stretched lines, labels of constant size."""

import json
from collections import defaultdict
from dataclasses import dataclass
from math import ceil, floor, log10

from yarbus.report.estimates import number
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.markup import Markup, join, tag
from yarbus.report.runs import Comparison, Row

MIN_SMOOTHED = 20
"""Curves with fewer logged steps than this are drawn as they are."""


@dataclass(frozen=True)
class Curve:
    """Loss by step of one variant in one stage, averaged over its seeds and smoothed for drawing."""

    variant: str
    steps: list[float]
    losses: list[float]
    num_seeds: int
    window: int
    """Logged steps in the running mean."""
    wall_seconds: float | None


def _loss_rows(rows: list[Row]) -> list[tuple[float, float]]:
    """(step, loss) of the lines that have both as finite numbers."""
    pairs = [(number(row.get("step")), number(row.get("loss"))) for row in rows]
    return [(step, loss) for step, loss in pairs if step is not None and loss is not None]


def _wall_seconds(rows: list[Row]) -> float | None:
    """Seconds of the stage: the last of the clock readings, or their sum where they are not cumulative."""
    found = [seconds for row in rows if (seconds := number(row.get("wall_seconds"))) is not None]
    if not found:
        return None
    return found[-1] if found == sorted(found) else sum(found)


def running_mean(values: list[float], window: int) -> list[float]:
    """Centred mean over ``window`` neighbours, fewer at the ends."""
    half = window // 2
    return [
        sum(part) / len(part)
        for part in (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    ]


def curve_of(variant: str, by_seed: list[list[Row]]) -> Curve | None:
    """The mean curve of several seeds at the steps that every seed has logged; None without a loss."""
    runs = [dict(_loss_rows(rows)) for rows in by_seed]
    runs = [run for run in runs if run]
    if not runs:
        return None
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    if not steps:
        return None
    losses = [sum(run[step] for run in runs) / len(runs) for step in steps]
    window = 1 if len(steps) < MIN_SMOOTHED else 2 * (len(steps) // 40) + 1
    seconds = [found for rows in by_seed if (found := _wall_seconds(rows)) is not None]
    wall_seconds = sum(seconds) / len(seconds) if seconds else None
    return Curve(variant, steps, running_mean(losses, window), len(runs), window, wall_seconds)


def curves(comparison: Comparison) -> dict[str, list[Curve]]:
    """The curves of each stage; one that all variants share has a single curve, and one more for each that does not."""
    rows: dict[str, dict[str, list[list[Row]]]] = defaultdict(lambda: defaultdict(list))
    for run in [*comparison.shared, *comparison.runs]:
        for stage, lines in run.curves.items():
            rows[stage][run.variant].append(lines)
    found = {
        stage: [curve for variant, by_seed in some.items() if (curve := curve_of(variant, by_seed))]
        for stage, some in rows.items()
    }
    return {stage: some for stage, some in found.items() if some}


def _scale(values: list[float]) -> tuple[bool, list[float]]:
    """Whether the axis is logarithmic (it is where the values span more than a factor of six), and its ticks."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 6:
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        first = max((mark for mark in marks if mark <= low), default=marks[0])
        last = min((mark for mark in marks if mark >= high), default=marks[-1])
        return True, [mark for mark in marks if first <= mark <= last]
    return False, ticks(low, high, most=6)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def curve_figure(stage: str, some: list[Curve], look: Look) -> Figure:
    """Loss by step of every variant in one stage; the numbers lie beside it for the pointer (page.js)."""
    is_log, y_marks = _scale([loss for curve in some for loss in curve.losses])
    x_marks = ticks(0.0, max(curve.steps[-1] for curve in some), most=6)
    x_end = max(curve.steps[-1] for curve in some) or 1

    def height(loss: float) -> float:
        value, low, high = (log10(v) if is_log else v for v in (loss, y_marks[0], y_marks[-1]))
        return 100 * (high - value) / (high - low)

    lines, legend, data = [], [], []
    for curve in some:
        points = [(100 * step / x_end, height(loss)) for step, loss in zip(curve.steps, curve.losses, strict=True)]
        path = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
        dash = look.dash(curve.variant)
        lines.append(
            tag(
                "path",
                d=path,
                class_=look.colour(curve.variant),
                stroke_dasharray=dash or None,
                vector_effect="non-scaling-stroke",
            )
        )
        sample = tag(
            "svg",
            tag("path", d="M0 5H28", stroke_dasharray=dash or None),
            class_=f"sample {look.colour(curve.variant)}",
            viewBox="0 0 28 10",
            aria_hidden="true",
        )
        seconds = "" if curve.wall_seconds is None else f", {_duration(curve.wall_seconds)}"
        legend.append(
            tag("li", sample, tag("span", curve.variant), " ", tag("small", f"ends at {curve.losses[-1]:.3g}{seconds}"))
        )
        data.append(
            {
                "name": curve.variant,
                "colour": look.colour(curve.variant),
                "points": [
                    [s, round(loss, 4), round(x, 2), round(y, 2)]
                    for s, loss, (x, y) in zip(curve.steps, curve.losses, points, strict=True)
                ],
            }
        )
    grid = [
        tag("path", d=f"M0 {height(mark):.2f}H100", class_="grid", vector_effect="non-scaling-stroke")
        for mark in y_marks
    ]
    y_labels = [tag("span", f"{mark:g}", style=f"top:{height(mark):.2f}%") for mark in y_marks]
    x_labels = [tag("span", f"{mark:g}", style=f"left:{100 * mark / x_end:.2f}%") for mark in x_marks if mark <= x_end]
    lowest = min(some, key=lambda curve: curve.losses[-1])
    alone = len(some) == 1
    reading = (
        f"The loss goes from {some[0].losses[0]:.3g} to {some[0].losses[-1]:.3g} in {some[0].steps[-1]:g} steps."
        if alone
        else f"At the last step {lowest.variant} has the lowest training loss; a lower loss is no test score."
    )
    smooth = max(curve.window for curve in some)
    how = [f"running mean over {smooth} logged steps" if smooth > 1 else "as logged"]
    if max(curve.num_seeds for curve in some) > 1:
        how.append("mean over seeds")
    if is_log:
        how.append("logarithmic axis")
    described = "; ".join(f"{curve.variant} from {curve.losses[0]:.3g} to {curve.losses[-1]:.3g}" for curve in some)
    chart = tag(
        "svg",
        *grid,
        *lines,
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Loss by step in stage {stage}: {described}",
    )
    values = Markup(json.dumps(data).replace("<", "\\u003c"))
    plot = tag(
        "div",
        tag("div", *y_labels, class_="y", aria_hidden="true"),
        tag("div", chart, tag("span", class_="cursor"), class_="area"),
        tag("div", *x_labels, class_="x", aria_hidden="true"),
        class_="plot",
    )
    readout = tag("p", Markup("&nbsp;"), class_="readout", aria_hidden="true")
    return Figure(
        name=f"curves-{stage}",
        title=f"Training loss by step, stage {stage}",
        reading=reading,
        how=f"{'; '.join(how).capitalize()}.",
        body=join([tag("ul", *legend, class_="legend"), plot, readout, tag("script", values, type="application/json")]),
        header=["stage", "variant", "step", "loss"],
        rows=[
            [stage, curve.variant, step, loss]
            for curve in some
            for step, loss in zip(curve.steps, curve.losses, strict=True)
        ],
        classes="curves",
    )
